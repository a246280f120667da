//! Random sections do the same natively and as scripts.
#![no_main]

#[path = "../../tests/fuzzing/choices.rs"]
#[expect(dead_code, reason = "not every target needs every choice")]
mod choices;
#[path = "../../tests/fuzzing/sections.rs"]
mod sections;

use sections::{Tally, check};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes, &mut Tally::default()));
