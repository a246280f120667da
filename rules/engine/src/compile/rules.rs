//! Rules: the functions of the file, clauses in their order, sections.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use rhai::{ParseError, Stmt};
use rustc_hash::FxHasher;

use super::analysis::{Analyzer, Place, Type, bodies};
use super::effects::OwnBody;
use super::native::Meaning;
use super::{Builder, CLAUSES_MAX, effects};
use crate::ruleset::Rule;
use crate::scripts::{Argument, ENTRY, Script, Source as Given};
use crate::steps::Steps;
use crate::syntax::lexer::{Piece, pieces};
use crate::syntax::{File, RuleDecl, Span};

impl Builder<'_, '_, '_> {
    pub(super) fn functions(&mut self, file: &File) {
        for function in &file.functions {
            let text = self.places.pad("", &function.span, "");
            match self.scripts.engine.compile(&text) {
                Ok(ast) => {
                    let mut all = bodies(&ast);
                    if let Some((parameters, statements)) = all.remove(&function.name.text) {
                        let scope = parameters.iter().map(|name| (name.clone(), Type::Any)).collect();
                        let mut analyzer = Analyzer::new(
                            self.report,
                            self.names,
                            Place::Function,
                            scope,
                            0,
                            &mut self.called,
                        );
                        analyzer.bodies = all;
                        analyzer.block(&statements);
                        let writes = analyzer.writes;
                        self.function_uses.insert(function.name.text.clone(), writes);
                        self.bodies.push(OwnBody {
                            name: function.name.text.clone(),
                            parameters,
                            statements,
                        });
                    }
                    self.library = self.library.merge(&ast);
                }
                Err(error) => self.syntax(&error, &function.span),
            }
        }
    }

    pub(super) fn syntax(&mut self, error: &ParseError, span: &Span) {
        let offset = self
            .places
            .offset(error.position())
            .unwrap_or(span.end)
            .clamp(span.start, span.end);
        let mut text = error.err_type().to_string();
        if let Some(first) = text.get(..1) {
            let lower = first.to_lowercase();
            text.replace_range(..1, &lower);
        }
        let place = self.places.word_at(offset);
        self.report.error("syntax", &place, text, "");
    }

    pub(super) fn rule(&mut self, number: u32, rule: &RuleDecl) -> Option<Rule> {
        if rule.clauses.len() > CLAUSES_MAX {
            let message = format!("a rule has at most {CLAUSES_MAX} clauses");
            self.report
                .error("too-many-clauses", &rule.name.span, message, "too many");
            return None;
        }
        let first = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let mut scope: Vec<(String, Type)> = Vec::new();
        let mut meanings: Vec<(String, Meaning)> = Vec::new();
        for (level, clause) in rule.clauses.iter().enumerate() {
            let last = level + 1 == rule.clauses.len();
            let mut node = self.clause(number, level, clause, &mut scope, &mut meanings);
            node.last = last;
            self.nodes.push(node);
        }
        if rule.clauses.is_empty() {
            self.report.error(
                "no-match",
                &rule.name.span,
                "the rule's `match` is empty",
                "what does it wait for?",
            );
        }
        let mut bound = BTreeSet::new();
        let places = [Place::Action, Place::Reaction, Place::Error];
        let sections = std::array::from_fn(|at| {
            let span = rule.sections[at].as_ref()?;
            self.section(places[at], span, &scope, &meanings, first, &mut bound)
        });
        Some(Rule {
            name: rule.name.text.as_str().into(),
            salience: rule.salience,
            line: self.places.line_column(rule.name.span.start).0,
            fingerprint: self.fingerprint(rule),
            layout: layout(rule),
            first,
            nodes: u32::try_from(rule.clauses.len()).unwrap_or(0),
            sections,
            bound: bound.into_iter().collect(),
        })
    }

    /// What a rule's matches mean, as a number: another text, constant or function makes it another rule.
    pub(super) fn fingerprint(&self, rule: &RuleDecl) -> u64 {
        let mut hasher = FxHasher::default();
        // Words and not texts: laying a file out anew, or another comment, makes no other rule.
        for clause in &rule.clauses {
            hash_words(&self.places.text[clause.span.clone()], &mut hasher);
        }
        for section in rule.sections.iter().flatten() {
            hash_words(&self.places.text[section.clone()], &mut hasher);
        }
        let mut consts: Vec<_> = self.names.consts.iter().collect();
        consts.sort_by_key(|(name, _)| *name);
        for (name, value) in consts {
            name.hash(&mut hasher);
            value.hash_into(&mut hasher);
        }
        hash_words(&self.functions_text, &mut hasher);
        hasher.finish()
    }

    pub(super) fn script(&mut self, span: &Span, arguments: Vec<Argument>) -> Option<Script> {
        let parameters: Vec<&str> = arguments.iter().map(|argument| argument.name.as_str()).collect();
        let text = self
            .places
            .pad(&format!("fn {ENTRY}({}) {{", parameters.join(", ")), span, "}");
        match self.scripts.engine.compile(&text) {
            Ok(ast) => Some(Script {
                ast: self.library.merge(&ast),
                arguments,
                steps: None,
            }),
            Err(error) => {
                self.syntax(&error, span);
                None
            }
        }
    }

    /// What native forms may refer to; nothing when there are to be none.
    pub(super) fn known(&self) -> Option<effects::Known<'_>> {
        let limits = self.limits;
        (limits.native_sections && effects::is_roomy(limits)).then_some(effects::Known {
            types: self.names.types,
            consts: self.names.consts,
            functions: self.names.functions,
            bodies: &self.bodies,
        })
    }

    /// The native form of a section.
    pub(super) fn native(
        &self,
        arguments: &[Argument],
        scope: &[(String, Type)],
        statements: &[Stmt],
    ) -> Option<Steps> {
        let parameters = arguments.iter().map(|argument| {
            let named = scope.iter().rev().find(|(name, _)| *name == argument.name);
            let kind = match named {
                Some((_, Type::Fact(kind, _))) => effects::Kind::Fact(*kind),
                Some((_, Type::Facts(kind))) => effects::Kind::Facts(*kind),
                _ => effects::Kind::Value,
            };
            (argument.name.clone(), kind)
        });
        effects::native(self.known()?, parameters, statements)
    }

    pub(super) fn section(
        &mut self,
        place: Place,
        span: &Span,
        scope: &[(String, Type)],
        meanings: &[(String, Meaning)],
        first: u32,
        bound: &mut BTreeSet<u32>,
    ) -> Option<Script> {
        let text = &self.places.text[span.clone()];
        let mut arguments = Vec::new();
        let mut scope = scope.to_vec();
        for (name, meaning) in meanings.iter().filter(|(name, _)| mentions(text, name)) {
            let (Meaning::Fact(_, level) | Meaning::Value(level) | Meaning::Collected(level)) = meaning;
            bound.insert(u32::try_from(*level).unwrap_or(0));
            arguments.push(Argument {
                name: name.clone(),
                source: Given::Level,
                level: *level,
                reads: 0,
            });
        }
        let given: &[(&str, Given)] = match place {
            Place::Reaction => &[("result", Given::Result), ("results", Given::Results)],
            Place::Error => &[("error", Given::Error), ("results", Given::Results)],
            _ => &[],
        };
        for (name, source) in given {
            scope.push(((*name).to_owned(), Type::Any));
            if mentions(text, name) && !arguments.iter().any(|argument| argument.name == *name) {
                arguments.push(Argument {
                    name: (*name).to_owned(),
                    source: *source,
                    level: 0,
                    reads: 0,
                });
            }
        }
        let mut script = self.script(span, arguments)?;
        let mut all = bodies(&script.ast);
        let levels = self.nodes.len() - first as usize;
        if let Some((_, statements)) = all.remove(ENTRY) {
            script.steps = self.native(&script.arguments, &scope, &statements);
            let mut analyzer = Analyzer::new(self.report, self.names, place, scope, levels, &mut self.called);
            analyzer.bodies = all;
            analyzer.block(&statements);
            self.uses.waits |= analyzer.waits;
            self.uses.writes.append(&mut analyzer.writes);
            let reads = analyzer.reads;
            self.uses.read(&reads);
            self.note_reads(levels, &reads);
        }
        Some(script)
    }
}

/// Hashes the words of a text, without white space and comments.
pub(super) fn hash_words(text: &str, hasher: &mut FxHasher) {
    for (piece, span) in pieces(text) {
        if let Piece::Token(_) = piece {
            text[span].hash(hasher);
        }
    }
}

/// Whether a script may mention a name; more often yes than needed.
pub(super) fn mentions(text: &str, name: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(name).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(is_word)
            && !text[at + name.len()..].chars().next().is_some_and(is_word)
    })
}

/// What an open firing of a rule relies on, as a number.
pub(super) fn layout(rule: &RuleDecl) -> u64 {
    let mut hasher = FxHasher::default();
    for clause in &rule.clauses {
        format!("{:?}", clause.kind).hash(&mut hasher);
        clause.name.as_ref().map(|name| &name.text).hash(&mut hasher);
    }
    hasher.finish()
}
