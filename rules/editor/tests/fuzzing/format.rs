//! What is laid out is laid out in the same way again and says the same; a text with mistakes is refused.

use celesta_editor::format;
use celesta_engine::{Source, meaning};

/// Formats the text; answers whether it could.
///
/// # Panics
/// A second pass lays it out in another way, or it says something else.
pub(crate) fn check(text: &str) -> bool {
    let Ok(once) = format("rules/a.rules", text) else {
        return false;
    };
    let twice = format("rules/a.rules", &once).expect("what was laid out can be read");
    assert_eq!(once, twice, "{text}");
    let said = |text: &str| {
        let source = Source {
            path: "rules/a.rules".into(),
            text: text.into(),
        };
        meaning(&source).expect("what can be laid out can be read")
    };
    assert_eq!(said(text), said(&once), "{text}");
    true
}
