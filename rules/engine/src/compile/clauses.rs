//! Clauses: their types, their conditions and what they read.

use std::collections::BTreeSet;
use std::sync::Arc;

use rhai::{Expr as Tree, Stmt};

use super::analysis::{Analyzer, Place, Type, all_fields, bodies};
use super::native::{Converter, Meaning};
use super::rules::mentions;
use super::uses::ClauseUse;
use super::{Builder, effects, timed};
use crate::expression::{Binary, Expr, Own};
use crate::ruleset::{FieldKind, Node, NodeKind, Test};
use crate::scripts::{Argument, ENTRY, Script, Source as Given};
use crate::syntax::lexer::{Kind, tokens};
use crate::syntax::place::Reporter;
use crate::syntax::{Clause, ClauseKind, Span};

impl Builder<'_, '_, '_> {
    pub(super) fn named_type(&mut self, clause: &Clause) -> Option<usize> {
        let name = clause.fact_type.as_ref()?;
        let found = self
            .names
            .types
            .iter()
            .position(|known| *known.name == *name.text);
        if let Some(kind) = found {
            self.used.insert(kind);
            self.shared_word(clause, kind, &name.span);
        } else {
            let types: Vec<&str> = self.names.types.iter().map(|known| &*known.name).collect();
            self.report
                .error(
                    "unknown-fact",
                    &name.span,
                    format!("no fact type `{}`", name.text),
                    "no such fact type",
                )
                .similar(&name.text, types);
        }
        found
    }

    /// `shared` stands before the types of shared facts and before no other.
    pub(super) fn shared_word(&mut self, clause: &Clause, kind: usize, span: &Span) {
        let fact_type = &self.names.types[kind];
        let name = &fact_type.name;
        if fact_type.shared && !clause.shared {
            let message = format!("`{name}` is a shared fact");
            self.report
                .error("shared-fact", span, message, format!("expected `shared {name}`"))
                .hint("shared facts belong to the service; `shared` says so where they are matched");
        } else if clause.shared && !fact_type.shared {
            let message = format!("`{name}` is no shared fact");
            self.report
                .error("shared-fact", span, message, "its facts belong to each run")
                .hint(format!(
                    "leave `shared` out, or declare it: `shared fact {name} {{ … }}`"
                ));
        }
    }

    pub(super) fn clause(
        &mut self,
        rule: u32,
        level: usize,
        clause: &Clause,
        scope: &mut Vec<(String, Type)>,
        meanings: &mut Vec<(String, Meaning)>,
    ) -> Node {
        let kind = match clause.kind {
            ClauseKind::Bind => NodeKind::Bind,
            ClauseKind::No => NodeKind::No,
            ClauseKind::Any => NodeKind::Any,
            ClauseKind::Count => NodeKind::Count,
            ClauseKind::Sum => NodeKind::Sum,
            ClauseKind::Min => NodeKind::Min,
            ClauseKind::Max => NodeKind::Max,
            ClauseKind::Collect => NodeKind::Collect,
            ClauseKind::If => NodeKind::If,
        };
        let fact_type = self.named_type(clause);
        self.uses
            .clauses
            .push(ClauseUse::new(clause.kind, fact_type, self.names.types));
        let own = if clause.kind == ClauseKind::Bind {
            &clause.name
        } else {
            &clause.inner
        };
        let outer = scope.len();
        for name in clause.name.iter().chain(&clause.inner) {
            if scope.iter().any(|(known, _)| *known == name.text)
                || self.names.consts.contains_key(&name.text)
            {
                let message = format!("the name `{}` is taken", name.text);
                self.report
                    .error("repeated-name", &name.span, message, "named again here");
            }
        }
        if let (Some(name), Some(kind)) = (own, fact_type) {
            scope.push((name.text.clone(), Type::Fact(kind, Some(level))));
            meanings.push((name.text.clone(), Meaning::Fact(kind, level)));
        } else if let Some(name) = own {
            scope.push((name.text.clone(), Type::Any));
        }
        let mut node = Node {
            rule,
            level: u32::try_from(level).unwrap_or(0),
            kind,
            fact_type,
            alpha: Vec::new(),
            keys: Vec::new(),
            join: Vec::new(),
            reads: 0,
            measure: None,
            order: None,
            timed: Vec::new(),
            last: false,
            text: self.places.text[clause.span.clone()]
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        };
        let mut reads = vec![0; level + 1];
        if let Some(filter) = &clause.filter {
            for part in self.conjuncts(filter) {
                if let Some(word) = timed::word(&self.places.text[part.clone()], self.names.functions) {
                    if !matches!(node.kind, NodeKind::Bind | NodeKind::If) {
                        let message = format!("`{word}` stands beside a bound fact or in `if`, not here");
                        self.report
                            .error("timed-here", &part, message, "here")
                            .hint("bind the fact, or write it into a slot when its time has come");
                        continue;
                    }
                    let timed = self.timed(&part, word, scope, meanings, &mut reads);
                    node.timed.extend(timed);
                    continue;
                }
                if let Some((expr, _)) = self.condition(&part, true, scope, meanings, &mut reads) {
                    let text = self.places.text[part]
                        .split_whitespace()
                        .collect::<Vec<_>>()
                        .join(" ");
                    place_test(&mut node, level, expr, text);
                }
            }
        }
        let value_of = |builder: &mut Self, span: &Option<Span>, reads: &mut Vec<u64>| {
            let (expr, _) = builder.condition(span.as_ref()?, false, scope, meanings, reads)?;
            Some(expr)
        };
        node.measure = value_of(self, &clause.measure, &mut reads);
        node.order = value_of(self, &clause.order, &mut reads);
        self.note_reads(level, &reads);
        node.reads = reads[level];
        if let (NodeKind::Collect, Some(kind)) = (kind, fact_type) {
            // What a section reads of its elements is not known, so every change counts.
            node.reads = all_fields(&self.names.types[kind]);
        }
        if clause.kind != ClauseKind::Bind {
            scope.truncate(outer);
            meanings.retain(|(_, meaning)| !matches!(meaning, Meaning::Fact(_, at) if *at == level));
            if let Some(name) = &clause.name {
                let (known, meaning) = match (clause.kind, fact_type) {
                    (ClauseKind::Collect, Some(kind)) => (Type::Facts(kind), Meaning::Collected(level)),
                    (ClauseKind::Count, _) => (Type::Kind(FieldKind::Int), Meaning::Value(level)),
                    _ => (Type::Any, Meaning::Value(level)),
                };
                scope.push((name.text.clone(), known));
                meanings.push((name.text.clone(), meaning));
            }
        }
        node
    }

    /// What later clauses and sections read of facts that earlier clauses bind.
    pub(super) fn note_reads(&mut self, level: usize, reads: &[u64]) {
        let base = self.nodes.len() - level;
        for (at, read) in reads.iter().enumerate().take(level) {
            if self.nodes[base + at].kind == NodeKind::Bind {
                self.nodes[base + at].reads |= read;
            }
        }
    }

    /// The parts of a condition that are joined by `&&`; the whole when `||` stands beside them.
    pub(super) fn conjuncts(&self, span: &Span) -> Vec<Span> {
        let text = &self.places.text[span.clone()];
        let words = tokens(text, &mut Reporter::new(self.places));
        let mut depth = 0_usize;
        let mut parts = Vec::new();
        let mut start = 0;
        for pair in words.windows(2) {
            match (pair[0].kind, pair[1].kind) {
                (Kind::Sign('(' | '[' | '{'), _) => depth += 1,
                (Kind::Sign(')' | ']' | '}'), _) => depth = depth.saturating_sub(1),
                (Kind::Sign('|'), _) | (Kind::Sign('?'), Kind::Sign('?')) if depth == 0 => {
                    return vec![span.clone()];
                }
                (Kind::Sign('&'), Kind::Sign('&'))
                    if depth == 0 && pair[0].span.end == pair[1].span.start =>
                {
                    parts.push(start..pair[0].span.start);
                    start = pair[1].span.end;
                }
                _ => {}
            }
        }
        parts.push(start..text.len());
        let trim = |part: Span| {
            let piece = &text[part.clone()];
            let lead = piece.len() - piece.trim_start().len();
            span.start + part.start + lead..span.start + part.start + lead + piece.trim().len()
        };
        parts.into_iter().map(trim).collect()
    }

    /// A condition or a measure as an expression of the network.
    pub(super) fn condition(
        &mut self,
        span: &Span,
        is_condition: bool,
        scope: &[(String, Type)],
        meanings: &[(String, Meaning)],
        reads: &mut [u64],
    ) -> Option<(Expr, Type)> {
        let text = self.places.pad("", span, "");
        let ast = match self.scripts.engine.compile_expression(&text) {
            Ok(ast) => ast,
            Err(error) => {
                self.syntax(&error, span);
                return None;
            }
        };
        let tree = match ast.statements() {
            [Stmt::Expr(tree)] => (**tree).clone(),
            [Stmt::FnCall(call, position)] => Tree::FnCall(call.clone(), *position),
            _ => {
                self.report.error(
                    "syntax",
                    span,
                    "this is not an expression",
                    "expected an expression",
                );
                return None;
            }
        };
        let mut analyzer = Analyzer::new(
            self.report,
            self.names,
            Place::Match,
            scope.to_vec(),
            reads.len(),
            &mut self.called,
        );
        analyzer.bodies = bodies(&ast);
        let known = analyzer.expr(&tree);
        if is_condition {
            analyzer.truth(known, &tree);
        }
        let tests = if is_condition {
            analyzer.tests(&tree, span)
        } else {
            Vec::new()
        };
        let own_reads = analyzer.reads;
        self.uses.condition(span, &own_reads, tests);
        for (all, own) in reads.iter_mut().zip(&own_reads) {
            *all |= own;
        }
        let converter = Converter {
            types: self.names.types,
            consts: self.names.consts,
            meanings,
            functions: self.names.functions,
            own: &|name, arity| self.own(name, arity),
        };
        if let Some(expr) = converter.convert(&tree) {
            return Some((expr, known));
        }
        let script = self.fallback(span, meanings, &own_reads)?;
        Some((Expr::Script(Arc::new(script)), known))
    }

    /// The native form of a function of the file that is given values and has no effects, if it has one.
    pub(super) fn own(&self, name: &str, arity: usize) -> Option<Arc<Own>> {
        let key = (name.to_owned(), arity);
        if let Some(known) = self.owns.borrow().get(&key) {
            return known.clone();
        }
        let made = self.own_made(name, arity);
        self.owns.borrow_mut().insert(key, made.clone());
        made
    }

    pub(super) fn own_made(&self, name: &str, arity: usize) -> Option<Arc<Own>> {
        let functions = effects::function(self.known()?, name, arity)?;
        let parameters: Vec<String> = (0..arity).map(|at| format!("a{at}")).collect();
        let parameters = parameters.join(", ");
        let text = format!("fn {ENTRY}({parameters}) {{ {name}({parameters}) }}");
        let ast = self.scripts.engine.compile(&text).ok()?;
        Some(Arc::new(Own {
            name: name.to_owned(),
            functions,
            script: Script {
                ast: self.library.merge(&ast),
                arguments: Vec::new(),
                steps: None,
            },
        }))
    }

    /// A condition that only the script engine can evaluate.
    pub(super) fn fallback(
        &mut self,
        span: &Span,
        meanings: &[(String, Meaning)],
        reads: &[u64],
    ) -> Option<Script> {
        let mut arguments = Vec::new();
        for (name, meaning) in meanings
            .iter()
            .filter(|(name, _)| mentions(&self.places.text[span.clone()], name))
        {
            let level = match meaning {
                Meaning::Fact(_, level) | Meaning::Value(level) => *level,
                Meaning::Collected(_) => {
                    let message = format!("in `match` only the length of `{name}` can be tested");
                    self.report
                        .error("collected-in-match", span, message, "here")
                        .hint(format!("write `{name}.len()`"));
                    return None;
                }
            };
            let reads = reads.get(level).copied().unwrap_or(0);
            arguments.push(Argument {
                name: name.clone(),
                source: Given::Level,
                level,
                reads,
            });
        }
        self.script(span, arguments)
    }
}

/// Puts a test where it is cheapest: beside the fact alone, into the index, or among the pairs.
fn place_test(node: &mut Node, level: usize, expr: Expr, text: String) {
    let mut levels = BTreeSet::new();
    expr.levels(&mut levels);
    if node.kind == NodeKind::If {
        node.join.push(Test { expr, text });
        return;
    }
    if levels.iter().all(|at| *at == level) {
        node.alpha.push(Test { expr, text });
        return;
    }
    if let Expr::Binary(Binary::Equal, sides) = expr {
        let without = |side: &Expr| {
            let mut levels = BTreeSet::new();
            side.levels(&mut levels);
            !levels.contains(&level)
        };
        match *sides {
            (Expr::Slot(at, slot), other) if at == level && without(&other) => node.keys.push((other, slot)),
            (other, Expr::Slot(at, slot)) if at == level && without(&other) => node.keys.push((other, slot)),
            (left, right) => {
                node.join.push(Test {
                    expr: Expr::Binary(Binary::Equal, Box::new((left, right))),
                    text,
                });
            }
        }
        return;
    }
    node.join.push(Test { expr, text });
}
