//! Random programs and changes fire what a naive engine fires. The bytes are the seed of a case.
#![no_main]

#[path = "../../tests/fuzzing/naive.rs"]
mod naive;
#[path = "../../tests/fuzzing/oracle.rs"]
mod oracle;

use libfuzzer_sys::Corpus;

/// What the random generator takes.
const SEED: usize = 32;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| -> Corpus {
    let mut seed = [0; SEED];
    let Some(given) = seed.get_mut(..bytes.len()) else {
        return Corpus::Reject;
    };
    given.copy_from_slice(bytes);
    oracle::check(oracle::chosen(&seed));
    Corpus::Keep
});
