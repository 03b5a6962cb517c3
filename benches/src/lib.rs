//! Input made from a seed, and the measurements that use it.
//!
//! **Owns** synthetic deliveries whose answer is known before anybody counts them.
//!
//! **Does not own** any rule of counting: it writes what AWS would deliver and says what a right count must be.
//!
//! **Promises** that the same plan gives the same bytes, on any machine and with any number of threads, in memory that
//! does not grow with the number of events.

pub mod cloudtrail;
pub mod landing_zone;
mod random;
pub mod simulation;
