//! The Lambda functions: each decodes a delivery, calls one room, and encodes its answer.
