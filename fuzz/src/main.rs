//! The readers under libFuzzer; `FUZZ_TARGET` names one of them.

#![no_main]

mod targets;

use std::sync::LazyLock;

static TARGET: LazyLock<&targets::Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    targets::TARGETS.iter().find(|target| target.name == name).expect("FUZZ_TARGET names a target")
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| (TARGET.read)(input));
