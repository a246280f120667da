//! Conditions on the time: `after(instant, "2h")` and `every("15m")`, as a whole condition or joined to others by `&&`.

use celesta_types::duration_ms;
use rhai::Dynamic;

use super::Builder;
use super::analysis::Type;
use super::native::Meaning;
use crate::Value;
use crate::ruleset::{FieldKind, Timed};
use crate::syntax::Span;
use crate::syntax::lexer::{Kind, tokens};
use crate::syntax::place::Reporter;

/// The least span: a host is woken no more often than once a second for a match.
const SPAN_MS_MIN: i64 = 1_000;

/// Which condition on the time the text is, if it is one; a file's own function goes before.
pub(super) fn word(text: &str, functions: &[(String, usize)]) -> Option<&'static str> {
    let word = ["after", "every"].into_iter().find(|word| {
        let rest = text.strip_prefix(word).map(str::trim_start);
        rest.is_some_and(|rest| rest.starts_with('(')) && text.ends_with(')')
    })?;
    (!functions.iter().any(|(name, _)| name == word)).then_some(word)
}

impl Builder<'_, '_, '_> {
    /// A condition on the time, checked.
    pub(super) fn timed(
        &mut self,
        part: &Span,
        word: &str,
        scope: &[(String, Type)],
        meanings: &[(String, Meaning)],
        reads: &mut [u64],
    ) -> Option<Timed> {
        let arguments = self.arguments(part);
        let (since, span) = match (word, arguments.as_slice()) {
            ("after", [since, span]) => (Some(since), span),
            ("every", [span]) => (None, span),
            _ => {
                let form = if word == "after" {
                    "after(fact.field, \"2h\")"
                } else {
                    "every(\"15m\")"
                };
                let message = format!("`{word}` is written `{form}`");
                self.report
                    .error("wrong-arguments", part, message, "written here");
                return None;
            }
        };
        let span_ms = self.span_ms(span)?;
        let since = match since {
            None => None,
            Some(since) => {
                let (expr, known) = self.condition(since, false, scope, meanings, reads)?;
                if let Type::Kind(kind) = known
                    && !matches!(kind, FieldKind::Time | FieldKind::Int | FieldKind::Any)
                {
                    let message = format!("an instant is a time, not a {}", kind.name());
                    self.report.error("wrong-type", since, message, "expected a time");
                    return None;
                }
                Some(expr)
            }
        };
        let text = &self.places.text[part.clone()];
        Some(Timed {
            since,
            span_ms,
            text: text.split_whitespace().collect::<Vec<_>>().join(" "),
        })
    }

    fn span_ms(&mut self, span: &Span) -> Option<i64> {
        let text = &self.places.text[span.clone()];
        let value = (self.scripts.engine.eval_expression::<Dynamic>(text)).map_err(|error| error.to_string());
        let millis = match value.and_then(|value| Value::from_dynamic(&value)) {
            Ok(Value::Int(millis)) => Ok(millis),
            Ok(Value::Str(text)) => duration_ms(&text).map_err(|error| error.to_string()),
            Ok(other) => Err(format!("a duration is not a {}", other.kind_name())),
            Err(_) => Err("a duration is a literal or a constant".into()),
        };
        match millis {
            Ok(millis) if millis >= SPAN_MS_MIN => Some(millis),
            Ok(_) => {
                let message = format!("a span of time in `match` is at least {SPAN_MS_MIN} ms");
                self.report.error("not-a-duration", span, message, "too short");
                None
            }
            Err(why) => {
                self.report
                    .error("not-a-duration", span, why, "expected a duration such as \"15m\"");
                None
            }
        }
    }

    /// The arguments of the one call that the text is.
    fn arguments(&self, part: &Span) -> Vec<Span> {
        let text = &self.places.text[part.clone()];
        let Some(open) = text.find('(') else {
            return Vec::new();
        };
        let (start, end) = (open + 1, text.len() - 1);
        let inner = &text[start..end];
        let mut depth = 0_usize;
        let mut cuts = vec![0];
        for word in tokens(inner, &mut Reporter::new(self.places)) {
            match word.kind {
                Kind::Sign('(' | '[' | '{') => depth += 1,
                Kind::Sign(')' | ']' | '}') => depth = depth.saturating_sub(1),
                Kind::Sign(',') if depth == 0 => cuts.push(word.span.end),
                _ => {}
            }
        }
        cuts.push(inner.len() + 1);
        cuts.windows(2)
            .map(|pair| {
                let piece = &inner[pair[0]..pair[1] - 1];
                let from = part.start + start + pair[0] + (piece.len() - piece.trim_start().len());
                from..from + piece.trim().len()
            })
            .filter(|span| !span.is_empty())
            .collect()
    }
}
