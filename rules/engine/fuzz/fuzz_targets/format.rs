//! What is laid out is laid out in the same way again and says the same: any text, and parts of rules files.
#![no_main]

#[path = "../../tests/fuzzing/choices.rs"]
#[expect(dead_code, reason = "not every target needs every choice")]
mod choices;
#[path = "../../../editor/tests/fuzzing/format.rs"]
mod format;
#[path = "../../tests/fuzzing/parse.rs"]
#[expect(dead_code, reason = "only its texts")]
mod parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        format::check(text);
    }
    format::check(&parse::text(bytes));
});
