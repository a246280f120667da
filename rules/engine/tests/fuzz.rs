//! Fuzzing with fixed bytes: texts for the compiler, and sections in native form against the script engine.

mod fuzzing;

use fuzzing::choices::bytes;
use fuzzing::parse;
use fuzzing::sections::{Tally, check};

#[expect(clippy::print_stderr, reason = "the long run says how far it is")]
fn run(cases: u64) {
    let mut tally = Tally::default();
    for seed in 0..cases {
        if seed % 10_000 == 9_999 {
            eprintln!("{tally:?}");
        }
        check(&bytes(seed, 400), &mut tally);
    }
    assert!(tally.compiled > cases / 3, "{tally:?}");
    assert!(tally.native > tally.compiled / 2, "{tally:?}");
    assert!(tally.threw > 0, "{tally:?}");
}

#[test]
fn random_sections_do_the_same_natively_and_as_scripts() {
    run(120);
}

#[test]
#[ignore = "minutes; run by hand with --release when native sections change"]
fn very_many_random_sections_do_the_same_natively_and_as_scripts() {
    run(200_000);
}

#[test]
fn random_texts_are_compiled_or_refused() {
    let compiled = (0..1_000)
        .filter(|seed| {
            let length = usize::try_from(seed % 60).unwrap_or(0) + 2;
            parse::check(&parse::text(&bytes(*seed, length)))
        })
        .count();
    assert!(compiled > 0);
}
