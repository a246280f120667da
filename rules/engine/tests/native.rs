//! Sections in native form do what the script engine does.

mod fuzzing;

use fuzzing::choices::bytes;
use fuzzing::sections::{Tally, check};

fn run(cases: u64) {
    let mut tally = Tally::default();
    for seed in 0..cases {
        check(&bytes(seed, 400), &mut tally);
    }
    assert!(tally.compiled > cases / 3, "{tally:?}");
    assert!(tally.native > tally.compiled / 2, "{tally:?}");
    assert!(tally.threw > 0, "{tally:?}");
}

#[test]
fn random_sections_do_the_same_natively_and_as_scripts() {
    run(300);
}

#[test]
#[ignore = "minutes; run by hand with --release when native sections change"]
fn very_many_random_sections_do_the_same_natively_and_as_scripts() {
    run(300_000);
}
