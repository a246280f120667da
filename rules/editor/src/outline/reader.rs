//! One declaration, from its keyword to the next one's: whatever of it is there.

use std::ops::Range;

use celesta_engine::{Word, WordKind};

use super::{Clause, Declaration, Declared, Field, Named, Part};

/// Reads one declaration.
pub(super) struct Reader<'t> {
    pub(super) text: &'t str,
    pub(super) words: &'t [Word],
    pub(super) at: usize,
    pub(super) end: usize,
}

impl<'t> Reader<'t> {
    pub(super) fn declaration(mut self) -> Declaration {
        let start = self.at;
        let shared = self.take("shared");
        let keyword = if shared { "fact" } else { self.text_at(self.at) };
        let what = match keyword {
            "workflow" => Declared::Workflow,
            "fact" => Declared::Fact { fields: Vec::new() },
            "const" => Declared::Const,
            "fn" => Declared::Function {
                parameters: Vec::new(),
                body: 0..0,
            },
            _ => Declared::Rule {
                clauses: Vec::new(),
                parts: Vec::new(),
            },
        };
        self.at += 1;
        let name = self.name(matches!(what, Declared::Rule { .. }));
        let what = match what {
            Declared::Fact { .. } => Declared::Fact {
                fields: self.fields(),
            },
            Declared::Function { .. } => self.function(),
            Declared::Rule { .. } => self.rule(),
            other => {
                while self.at < self.end && !self.is(";") {
                    self.at += 1;
                }
                self.at = (self.at + 1).min(self.end);
                other
            }
        };
        let stop = self.at.clamp(start + 1, self.end.max(start + 1));
        let last = self.words.get(stop - 1).map_or(0, |word| word.span.end);
        Declaration {
            what,
            name,
            span: self.words[start].span.start..last,
        }
    }

    fn name(&mut self, quoted: bool) -> Named {
        let wanted = if quoted { WordKind::Text } else { WordKind::Name };
        match self.words.get(self.at).filter(|_| self.at < self.end) {
            Some(word) if word.kind == wanted => {
                self.at += 1;
                let inset = usize::from(quoted);
                let span = word.span.start + inset..word.span.end - inset;
                Named {
                    name: self.text[span.clone()].to_owned(),
                    span,
                }
            }
            _ => {
                let end = self
                    .words
                    .get(self.at.saturating_sub(1))
                    .map_or(0, |word| word.span.end);
                Named {
                    name: String::new(),
                    span: end..end,
                }
            }
        }
    }

    fn named(&mut self) -> Option<Named> {
        let named = self.name(false);
        (!named.name.is_empty()).then_some(named)
    }

    fn fields(&mut self) -> Vec<Field> {
        let mut fields = Vec::new();
        self.take("{");
        while self.at < self.end && !self.is("}") {
            let Some(name) = self.named() else {
                self.at += 1;
                continue;
            };
            self.take(":");
            let from = self
                .words
                .get(self.at)
                .map_or(name.span.end, |word| word.span.start);
            let mut to = from;
            let mut depth = 0_usize;
            while self.at < self.end && (depth > 0 || !(self.is(",") || self.is("}"))) {
                self.deeper(&mut depth);
                to = self.words[self.at].span.end;
                self.at += 1;
            }
            self.take(",");
            fields.push(Field {
                name,
                kind: from..to.max(from),
            });
        }
        self.take("}");
        fields
    }

    fn function(&mut self) -> Declared {
        let mut parameters = Vec::new();
        if self.take("(") {
            while self.at < self.end && !self.is(")") && !self.is("{") {
                match self.named() {
                    Some(name) => parameters.push(name),
                    None => self.at += 1,
                }
            }
            self.take(")");
        }
        let body = if self.take("{") {
            self.group()
        } else {
            self.at..self.at
        };
        Declared::Function { parameters, body }
    }

    fn rule(&mut self) -> Declared {
        let mut clauses = Vec::new();
        let mut parts = Vec::new();
        while self.at < self.end && !self.is("{") {
            self.at += 1;
        }
        self.at = (self.at + 1).min(self.end);
        while self.at < self.end && !self.is("}") {
            let part = match self.text_at(self.at) {
                "match" => Part::Match,
                "action" => Part::Action,
                "reaction" => Part::Reaction,
                "error" => Part::Error,
                _ => {
                    self.at += 1;
                    continue;
                }
            };
            self.at += 1;
            if !self.take("{") {
                continue;
            }
            let inside = self.group();
            if part == Part::Match {
                clauses = self.clauses(inside.clone());
            }
            parts.push((part, inside));
        }
        self.at = (self.at + 1).min(self.end);
        Declared::Rule { clauses, parts }
    }

    /// The words up to the brace that closes this group, which is passed. A section's keyword at the start of a line
    /// before `{` ends a group that is not closed.
    fn group(&mut self) -> Range<usize> {
        let start = self.at;
        let mut depth = 1_usize;
        while self.at < self.end {
            if self.is("{") {
                depth += 1;
            } else if self.is("}") {
                depth -= 1;
                if depth == 0 {
                    self.at += 1;
                    return start..self.at - 1;
                }
            } else if self.begins_part() {
                break;
            }
            self.at += 1;
        }
        start..self.at
    }

    fn begins_part(&self) -> bool {
        let part = matches!(self.text_at(self.at), "match" | "action" | "reaction" | "error");
        part && self.at + 1 < self.end && self.text_at(self.at + 1) == "{" && {
            let before = &self.text[..self.words[self.at].span.start];
            let line = before.rfind('\n').map_or(0, |feed| feed + 1);
            before[line..].trim().is_empty()
        }
    }

    fn clauses(&self, inside: Range<usize>) -> Vec<Clause> {
        let mut clauses = Vec::new();
        let mut start = inside.start;
        let mut depth = 0_usize;
        for at in inside.clone() {
            let text = self.text_at(at);
            match text {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if text == ";" && depth == 0 {
                clauses.push(self.clause(start..at));
                start = at + 1;
            }
        }
        if start < inside.end {
            clauses.push(self.clause(start..inside.end));
        }
        clauses
    }

    fn clause(&self, words: Range<usize>) -> Clause {
        let mut clause = Clause {
            name: None,
            word: None,
            fact_type: None,
            inner: None,
            words: words.clone(),
        };
        let mut reader = Reader {
            text: self.text,
            words: self.words,
            at: words.start,
            end: words.end,
        };
        let first = reader.text_at(reader.at);
        let mut binds = false;
        if matches!(first, "no" | "any" | "if") && reader.text_at(reader.at + 1) != ":" {
            clause.word = Some(first.to_owned());
            reader.at += 1;
            if first == "if" {
                return clause;
            }
        } else {
            clause.name = reader.named();
            binds = reader.take(":");
            if !binds && reader.take("=") {
                let word = reader.text_at(reader.at);
                if matches!(word, "sum" | "min" | "max") {
                    reader.measure();
                } else {
                    reader.at += 1;
                }
                clause.word = Some(word.to_owned());
            }
        }
        if !binds && clause.word.is_none() {
            return clause;
        }
        reader.take("shared");
        clause.fact_type = reader.named();
        if !binds && !matches!(reader.text_at(reader.at), "where" | "order") {
            clause.inner = reader.named();
        }
        clause
    }

    /// Passes the measure of an aggregate: up to `of`, or to two names side by side.
    fn measure(&mut self) {
        self.at += 1;
        let start = self.at;
        while self.at < self.end {
            if self.is("of") {
                self.at += 1;
                return;
            }
            let is_name = |at: usize| {
                let joins = |text: &str| matches!(text, "in" | "if" | "else" | "where" | "order");
                at < self.end && self.words[at].kind == WordKind::Name && !joins(self.text_at(at))
            };
            let operand = self.at > start
                && (is_name(self.at - 1) || matches!(self.text_at(self.at - 1), ")" | "]" | "}"));
            if is_name(self.at) && operand {
                return;
            }
            self.at += 1;
        }
    }

    fn deeper(&self, depth: &mut usize) {
        match self.text_at(self.at) {
            "{" | "(" | "[" => *depth += 1,
            "}" | ")" | "]" => *depth = depth.saturating_sub(1),
            _ => {}
        }
    }

    fn text_at(&self, at: usize) -> &'t str {
        match self.words.get(at) {
            Some(word) if at < self.end => &self.text[word.span.clone()],
            _ => "",
        }
    }

    fn is(&self, text: &str) -> bool {
        self.text_at(self.at) == text
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.is(text);
        self.at += usize::from(found);
        found
    }
}
