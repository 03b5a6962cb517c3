//! What facts come to: which of them stand, which exports are in force, and what each hour's total is.
//!
//! Pure: from facts and meters' rules to values. The roll-up evaluates the series that changed; a full fold of the logs
//! evaluates all of them, and must come to the same.

mod evaluation;
mod exports;
mod standing;

pub use evaluation::{Contribution, Evaluated, EvaluationError, Gap, Hourly, evaluate};
pub use exports::{Generation, Generations};
pub use standing::{FactVersion, FullEvaluation, FullEvaluationError, HourlyKey, Standing};
