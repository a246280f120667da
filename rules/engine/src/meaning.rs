//! What a rules file says, without how it is laid out: two texts of one meaning are the same rules to everybody.
//!
//! Only the form is checked here, not whether names exist: a file may be formatted while a function is still missing.

use std::hash::{Hash as _, Hasher as _};

use rhai::{AST, ParseError};
use rustc_hash::FxHasher;

use crate::compile::Source;
use crate::diagnostic::Diagnostics;
use crate::limits::Limits;
use crate::scripts::Scripts;
use crate::syntax::lexer::{Piece, pieces};
use crate::syntax::place::{Places, Reporter};
use crate::syntax::{File, Span, parser};

/// The form of a rules file: its words without white space and comments, and what the script engine reads in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    words: u64,
    scripts: Vec<u64>,
}

/// The form of a rules file.
///
/// # Errors
/// What cannot be read, with places: mistakes of the language and of the scripts within. A name that does not exist is
/// no such mistake.
pub fn meaning(source: &Source) -> Result<Meaning, Diagnostics> {
    let places = Places::new(&source.path, &source.text);
    let mut report = Reporter::new(&places);
    let file = parser::parse(&source.text, &mut report);
    let mut reading = Reading {
        places: &places,
        scripts: Scripts::new(&Limits::default(), &[]),
        report,
        read: Vec::new(),
    };
    reading.file(&file);
    let Reading { report, read, .. } = reading;
    if report.has_errors() {
        return Err(report.finish());
    }
    let mut hasher = FxHasher::default();
    for (piece, span) in pieces(&source.text) {
        if let Piece::Token(_) = piece {
            source.text[span].hash(&mut hasher);
        }
    }
    Ok(Meaning {
        words: hasher.finish(),
        scripts: read,
    })
}

struct Reading<'p> {
    places: &'p Places<'p>,
    scripts: Scripts,
    report: Reporter<'p>,
    read: Vec<u64>,
}

impl Reading<'_> {
    fn file(&mut self, file: &File) {
        for constant in &file.consts {
            self.expression(&constant.value);
        }
        let defaults = file.facts.iter().flat_map(|fact| &fact.fields);
        for default in defaults.filter_map(|field| field.default.as_ref()) {
            self.expression(default);
        }
        for function in &file.functions {
            self.script(&function.span);
        }
        for rule in &file.rules {
            for clause in &rule.clauses {
                for part in [&clause.measure, &clause.filter, &clause.order]
                    .into_iter()
                    .flatten()
                {
                    self.expression(part);
                }
            }
            for section in rule.sections.iter().flatten() {
                self.script(section);
            }
        }
    }

    fn expression(&mut self, span: &Span) {
        let text = self.places.pad("", span, "");
        let ast = self.scripts.engine.compile_expression(text);
        self.took(ast, span);
    }

    fn script(&mut self, span: &Span) {
        let text = self.places.pad("", span, "");
        let ast = self.scripts.engine.compile(text);
        self.took(ast, span);
    }

    fn took(&mut self, ast: Result<AST, ParseError>, span: &Span) {
        match ast {
            Ok(ast) => {
                // Closures are named by their places, and stand in no order.
                let functions = ast
                    .iter_fn_def()
                    .map(|function| without_places(&format!("{:?} {:?}", function.params, function.body)))
                    .fold(0, u64::wrapping_add);
                let statements = without_places(&format!("{:?}", ast.statements()));
                self.read.push(statements.rotate_left(1) ^ functions);
            }
            Err(error) => {
                let at = self.places.offset(error.position()).unwrap_or(span.end);
                let place = self.places.word_at(at.clamp(span.start, span.end));
                let mut text = error.err_type().to_string();
                if let Some(first) = text.get(..1) {
                    let lower = first.to_lowercase();
                    text.replace_range(..1, &lower);
                }
                self.report.error("syntax", &place, text, "");
            }
        }
    }
}

/// The hash of a syntax tree's text without the places in it (`12:5`, or `12:5-13:1`) and the names of closures.
fn without_places(tree: &str) -> u64 {
    let mut hasher = FxHasher::default();
    let is_part = |letter: char| letter.is_ascii_hexdigit() || matches!(letter, ':' | '-');
    for word in tree.split([' ', '(', ')', ',', '[', ']', '{', '}', '"']) {
        let place = word.contains(':') && word.chars().all(is_part);
        if !place && !word.starts_with("anon$") {
            word.hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Meaning {
        let path = "rules/a.rules".to_owned();
        let text = text.to_owned();
        meaning(&Source { path, text }).expect("the text can be read")
    }

    #[test]
    fn white_space_and_comments_mean_nothing() {
        let plain = "workflow a;\nfact F { x: int = 1 }\nrule \"r\" { match { f: F where f.x==1; } action { f.x = -1; } }";
        let spaced = "workflow a; // so\nfact F {\n x : int=1 }\nrule \"r\" {\n\n match { f: F where f.x == 1; }\n action {\n f.x\n =  -1; } }";
        assert_eq!(of(plain), of(spaced));
    }

    #[test]
    fn a_space_that_the_script_engine_sees_means_something() {
        let rule = |body: &str| {
            format!(
                "workflow a;\nfact F {{ x: int }}\nrule \"r\" {{ match {{ f: F; }} action {{ {body} }} }}"
            )
        };
        assert_ne!(of(&rule("f.x = -1.abs();")), of(&rule("f.x = - 1.abs();")));
        assert_ne!(of(&rule("f.x = 1;")), of(&rule("f.x = 2;")));
    }

    #[test]
    fn names_that_do_not_exist_are_no_mistake_of_form() {
        of("workflow a;\nrule \"r\" { match { f: Nothing where f.gone; } action { call(\"none\", #{}); } }");
    }
}
