//! Texts for the compiler: parts of rules files cut, joined and damaged. It may refuse them; it must not fail.

use celesta_engine::{Environment, Limits, RunId, Source, Turn, WorkingMemory, compile};

use super::choices::Choices;

const PARTS: &[&str] = &[
    "workflow w;\n",
    "fact A { n: int = 0, s: string? }\n",
    "shared fact B { l: list, x: any }\n",
    "const N = 3;\n",
    "fn f(a) { a + 1 }\n",
    "rule \"r\" { match { a: A where a.n > 1 && a.s != \"x\"; } action { a.n += 1; } }\n",
    "rule \"s\" salience -3 { match { no A a where a.n in [1, 2]; c = count A a; } action { insert(\"A\", #{ n: c }); } }\n",
    "rule \"t\" { match { l = collect A a order by a.n; if l.len() > 1; } action { call(\"f\", #{ n: `${l.len()}` }); } reaction { log(result); } error { retry(); } }\n",
    " where ",
    " match { ",
    " } ",
    " action { ",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "#{",
    "`",
    "${",
    "\"",
    "//",
    "/*",
    "*/",
    ";",
    ":",
    "..",
    "=",
    "==",
    "??",
    "?.",
    "|",
    "||",
    "&&",
    "!",
    "-",
    "9223372036854775808",
    "1e999",
    "\\u{110000}",
    "ä",
    "\u{0}",
    "let x = ",
    "for i in ",
    "while ",
    "loop ",
    "if ",
    "else ",
    "switch ",
    "|x| ",
    "throw ",
    "return ",
    "break ",
    "fn ",
    "rule ",
    "fact ",
    "const ",
    "a.n",
    "a.",
    "A",
    "a: A",
    "sum a.n of A a",
    "every",
    "after",
];

/// The text that these bytes choose: parts, and now and then a raw byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut choices = Choices::new(bytes);
    let mut text = String::new();
    while !choices.is_empty() {
        match choices.below(8) {
            0 => text.push(char::from(u8::try_from(choices.below(128)).unwrap_or(b' '))),
            1 => {
                let cut = text.len().saturating_sub(choices.below(24));
                if text.is_char_boundary(cut) {
                    text.truncate(cut);
                }
            }
            2 => text += PARTS[choices.below(8)],
            _ => text += PARTS[choices.below(PARTS.len())],
        }
    }
    text
}

/// Compiles the text, and runs a turn of what compiles.
pub(crate) fn check(text: &str) -> bool {
    let source = Source {
        path: "random.rules".into(),
        text: text.into(),
    };
    let limits = Limits {
        operations: 10_000,
        firings: 50,
        ..Limits::default()
    };
    let environment = Environment {
        functions: ["f".to_owned()].into(),
        limits,
    };
    match compile(&source, &environment) {
        Ok(compiled) => {
            let mut memory = WorkingMemory::new(&compiled.rules, RunId::from_bits(1));
            drop(memory.turn(Turn {
                seq: 1,
                now_ms: 0,
                events: Vec::new(),
            }));
            true
        }
        Err(found) => {
            assert!(!found.to_string().is_empty());
            false
        }
    }
}
