//! Which name means what within rules and functions: the blocks of the script language, its closures and loops.

use std::collections::BTreeSet;
use std::ops::Range;

use celesta_engine::{Word, WordKind};

use super::{Holds, Local, Occurrence, Symbol};
use crate::language;
use crate::outline::{Clause, Declared, Named, Outline, Span};

/// A bracket that is open, and what was declared in it.
struct Level {
    opening: char,
    /// How many names were known outside.
    outer: usize,
    /// The fact type whose fields the keys of this map are.
    fields_of: Option<String>,
    /// How many names were known before each closure whose body has not ended.
    closures: Vec<usize>,
    /// The names of a `for` that become known with its block.
    waiting: Vec<(Named, Holds)>,
}

impl Level {
    const fn new(opening: char, outer: usize) -> Self {
        Self {
            opening,
            outer,
            fields_of: None,
            closures: Vec::new(),
            waiting: Vec::new(),
        }
    }
}

/// Reads words and remembers what they refer to.
pub(super) struct Reader<'t> {
    text: &'t str,
    words: &'t [Word],
    consts: BTreeSet<&'t str>,
    functions: BTreeSet<&'t str>,
    types: BTreeSet<&'t str>,
    occurrences: Vec<Occurrence>,
    locals: Vec<Local>,
    /// Indexes of the locals known now, inner ones last.
    known: Vec<usize>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str, outline: &'t Outline) -> Self {
        let names = |fits: fn(&Declared) -> bool| {
            let declarations = outline.declarations.iter();
            declarations
                .filter(move |one| fits(&one.what))
                .map(|one| one.name.name.as_str())
                .collect()
        };
        Self {
            text,
            words: &outline.words,
            consts: names(|what| matches!(what, Declared::Const)),
            functions: names(|what| matches!(what, Declared::Function { .. })),
            types: names(|what| matches!(what, Declared::Fact { .. })),
            occurrences: Vec::new(),
            locals: Vec::new(),
            known: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> (Vec<Occurrence>, Vec<Local>) {
        (self.occurrences, self.locals)
    }

    pub(super) fn occurs(&mut self, span: Span, symbol: Symbol, defines: bool) {
        self.occurrences.push(Occurrence {
            span,
            symbol,
            defines,
        });
    }

    /// The text that some words cover, up to the word after them.
    pub(super) fn place(&self, words: &Range<usize>) -> Span {
        let start = match words.start.checked_sub(1) {
            Some(before) => self.words[before].span.end,
            None => 0,
        };
        let end = self
            .words
            .get(words.end)
            .map_or(self.text.len(), |word| word.span.start);
        start..end.max(start)
    }

    /// A name that is known in a part of the text.
    pub(super) fn declare(&mut self, name: Named, holds: Holds, known: Span) {
        self.occurs(name.span.clone(), Symbol::Local(name.span.start), true);
        self.known.push(self.locals.len());
        self.locals.push(Local { name, holds, known });
    }

    /// `result`, `results`, `error`: known without a declaration.
    pub(super) fn given(&mut self, name: &str, known: Span) {
        let place = known.start..known.start;
        self.known.push(self.locals.len());
        self.locals.push(Local {
            name: Named {
                name: name.to_owned(),
                span: place,
            },
            holds: Holds::Anything,
            known,
        });
    }

    /// Forgets the names of a declaration that has ended.
    pub(super) fn leave(&mut self) {
        self.known.clear();
    }

    fn find(&self, name: &str, at: usize) -> Option<&Local> {
        let mut locals = self.known.iter().rev().map(|local| &self.locals[*local]);
        locals.find(|local| local.name.name == name && local.known.start <= at && at <= local.known.end)
    }

    /// A clause of a rule that ends at `end`: its names, and the expressions in it.
    pub(super) fn clause(&mut self, clause: &Clause, end: usize) {
        let place = self.place(&clause.words);
        let fact_type = clause.fact_type.as_ref().map(|name| name.name.clone());
        if let Some(name) = &clause.fact_type {
            self.occurs(name.span.clone(), Symbol::FactType(name.name.clone()), false);
        }
        let own = match &fact_type {
            Some(name) => Holds::Fact(name.clone()),
            None => Holds::Anything,
        };
        let known = self.known.len();
        if let Some(inner) = &clause.inner {
            self.declare(inner.clone(), own.clone(), place.clone());
        }
        if clause.word.is_none()
            && let Some(name) = &clause.name
        {
            self.declare(name.clone(), own, place.start..end);
        }
        let heads = [&clause.name, &clause.fact_type, &clause.inner];
        let heads: Vec<usize> = heads.into_iter().flatten().map(|name| name.span.start).collect();
        self.walk(clause.words.clone(), &heads);
        if let (Some(word), Some(name)) = (&clause.word, &clause.name) {
            self.known.truncate(known);
            let holds = match (word.as_str(), fact_type) {
                ("collect", Some(fact_type)) => Holds::Facts(fact_type),
                _ => Holds::Aggregate(word.clone()),
            };
            self.declare(name.clone(), holds, place.end..end);
        } else if clause.inner.is_some() {
            self.known.truncate(known);
        }
    }

    pub(super) fn script(&mut self, words: Range<usize>) {
        self.walk(words, &[]);
    }

    fn walk(&mut self, words: Range<usize>, heads: &[usize]) {
        let end = self.place(&words).end;
        let outer = self.known.len();
        let mut levels = vec![Level::new(' ', outer)];
        let mut at = words.start;
        while at < words.end {
            let word = &self.words[at];
            let start = word.span.start;
            match word.kind {
                WordKind::Sign(sign @ ('{' | '(' | '[')) => self.open(&mut levels, sign, at, end),
                WordKind::Sign('}' | ')' | ']') => self.close(&mut levels, start),
                WordKind::Sign(';' | ',') => {
                    let level = levels.last_mut();
                    let ended = level.and_then(|level| level.closures.drain(..).next());
                    if let Some(known) = ended {
                        self.forget(known, start);
                    }
                }
                WordKind::Sign('|') if self.opens_closure(at, words.start) => {
                    at = self.closure(&mut levels, at, &words, end);
                }
                WordKind::Name if !heads.contains(&start) => {
                    at = self.word(&mut levels, at, &words, end);
                }
                WordKind::Text | WordKind::Open => self.quoted(at, words.start),
                _ => {}
            }
            at += 1;
        }
        self.forget(outer, end);
    }

    fn open(&mut self, levels: &mut Vec<Level>, sign: char, at: usize, end: usize) {
        let mut level = Level::new(sign, self.known.len());
        let start = self.words[at].span.start;
        if sign == '{' && at > 0 && self.is_sign(at - 1, '#') {
            // `insert("Type", #{` and nothing else gives a map's keys a meaning.
            let name = (at >= 5 && self.text_of(at - 5) == "insert" && self.is_sign(at - 2, ','))
                .then(|| self.text_of(at - 3).trim_matches('"').to_owned());
            level.fields_of = name;
            level.opening = '#';
        } else if sign == '{' {
            let waiting = levels.last_mut().map(|level| std::mem::take(&mut level.waiting));
            for (name, holds) in waiting.into_iter().flatten() {
                self.declare(name, holds, start..end);
            }
        }
        levels.push(level);
    }

    fn close(&mut self, levels: &mut Vec<Level>, at: usize) {
        if levels.len() > 1
            && let Some(level) = levels.pop()
        {
            self.forget(level.outer, at);
        }
    }

    /// Names declared since are not known any more.
    fn forget(&mut self, outer: usize, at: usize) {
        for local in self.known.drain(outer.min(self.known.len())..) {
            let known = &mut self.locals[local].known;
            known.end = known.end.min(at).max(known.start);
        }
    }

    fn opens_closure(&self, at: usize, first: usize) -> bool {
        if at == first {
            return true;
        }
        match self.words[at - 1].kind {
            WordKind::Sign(sign) => !matches!(sign, ')' | ']' | '}' | '|'),
            WordKind::Name => matches!(self.text_of(at - 1), "return" | "in"),
            _ => false,
        }
    }

    /// The parameters of a closure; gives the place of the sign that ends them.
    fn closure(&mut self, levels: &mut [Level], at: usize, words: &Range<usize>, end: usize) -> usize {
        let known = self.known.len();
        let holds = self.elements_before(at);
        let mut next = at + 1;
        let mut parameters = Vec::new();
        while next < words.end && !self.is_sign(next, '|') {
            match self.words[next].kind {
                WordKind::Name => parameters.push(self.named(next)),
                WordKind::Sign(',') => {}
                // No closure after all.
                _ => return at,
            }
            next += 1;
        }
        for (position, name) in parameters.into_iter().enumerate() {
            let holds = if position == 0 {
                holds.clone()
            } else {
                Holds::Anything
            };
            self.declare(name, holds, self.words[at].span.start..end);
        }
        if let Some(level) = levels.last_mut() {
            level.closures.push(known);
        }
        next
    }

    /// What a closure that begins here is given: the elements of `list` in `list.map(|…|`.
    fn elements_before(&self, at: usize) -> Holds {
        if at >= 4 && self.is_sign(at - 1, '(') && self.is_sign(at - 3, '.') {
            let start = self.words[at].span.start;
            if let Some(Local {
                holds: Holds::Facts(fact_type),
                ..
            }) = self.find(self.text_of(at - 4), start)
            {
                return Holds::Fact(fact_type.clone());
            }
        }
        Holds::Anything
    }

    /// A name within an expression or a statement; gives the place of the last word it has taken.
    fn word(&mut self, levels: &mut [Level], at: usize, words: &Range<usize>, end: usize) -> usize {
        let name = self.text_of(at);
        let span = self.words[at].span.clone();
        if at > words.start && self.is_sign(at - 1, '.') && !self.is_range(at) {
            self.member(at, words.start);
            return at;
        }
        let is_key = levels.last().is_some_and(|level| level.opening == '#')
            && (self.is_sign(at - 1, '{') || self.is_sign(at - 1, ','))
            && self.is_sign(at + 1, ':');
        if is_key {
            if let Some(fact_type) = levels.last().and_then(|level| level.fields_of.clone()) {
                self.occurs(span, Symbol::Field(fact_type, name.to_owned()), false);
            }
            return at;
        }
        match name {
            "let" | "const" if self.is_name(at + 1, words.end) => {
                let name = self.named(at + 1);
                let holds = self.given_by(at + 2, words.end);
                self.declare(name, holds, span.start..end);
                return at + 1;
            }
            "for" => return self.loop_names(levels, at, words),
            "catch" if self.is_sign(at + 1, '(') && self.is_name(at + 2, words.end) => {
                let name = self.named(at + 2);
                if let Some(level) = levels.last_mut() {
                    level.waiting.push((name, Holds::Anything));
                }
                return at + 2;
            }
            _ => {}
        }
        if let Some(local) = self.find(name, span.start) {
            let symbol = match local.name.span.is_empty() {
                true => Symbol::Builtin(name.to_owned()),
                false => Symbol::Local(local.name.span.start),
            };
            self.occurs(span, symbol, false);
        } else if self.consts.contains(name) {
            self.occurs(span, Symbol::Const(name.to_owned()), false);
        } else if self.is_sign(at + 1, '(') && self.functions.contains(name) {
            self.occurs(span, Symbol::Function(name.to_owned()), false);
        } else if self.is_sign(at + 1, '(') && language::action_of(name).is_some() {
            self.occurs(span, Symbol::Builtin(name.to_owned()), false);
        }
        at
    }

    fn loop_names(&self, levels: &mut [Level], at: usize, words: &Range<usize>) -> usize {
        let mut next = at + 1;
        let mut names = Vec::new();
        while next < words.end && self.text_of(next) != "in" {
            match self.words[next].kind {
                WordKind::Name => names.push(self.named(next)),
                WordKind::Sign('(' | ')' | ',') => {}
                _ => return at,
            }
            next += 1;
        }
        let start = self.words[at].span.start;
        let over = next + 1;
        let whole = over < words.end && self.is_sign(over + 1, '{');
        let listed = self.find(self.text_of(over), start).filter(|_| whole);
        let holds = match listed.map(|local| &local.holds) {
            Some(Holds::Facts(fact_type)) => Holds::Fact(fact_type.clone()),
            _ => Holds::Anything,
        };
        if let Some(level) = levels.last_mut() {
            for (position, name) in names.into_iter().enumerate() {
                let holds = if position == 0 {
                    holds.clone()
                } else {
                    Holds::Anything
                };
                level.waiting.push((name, holds));
            }
        }
        next
    }

    /// What `let` is given: a new fact, or a name that holds something known.
    fn given_by(&self, at: usize, end: usize) -> Holds {
        if !self.is_sign(at, '=') || at + 2 >= end {
            return Holds::Anything;
        }
        if self.text_of(at + 1) == "insert" && self.is_sign(at + 2, '(') {
            return Holds::Fact(self.text_of(at + 3).trim_matches('"').to_owned());
        }
        let start = self.words[at].span.start;
        let same = self.is_sign(at + 2, ';');
        let local = self.find(self.text_of(at + 1), start).filter(|_| same);
        local.map_or(Holds::Anything, |local| local.holds.clone())
    }

    /// `fact.field`, `facts[0].field`.
    fn member(&mut self, at: usize, first: usize) {
        let span = self.words[at].span.clone();
        let mut before = at - 1;
        if before > first && self.is_sign(before - 1, '?') {
            before -= 1;
        }
        if before <= first || self.is_sign(at + 1, '(') {
            return;
        }
        let mut receiver = before - 1;
        let indexed = self.is_sign(receiver, ']');
        if indexed {
            while receiver > first && !self.is_sign(receiver, '[') {
                receiver -= 1;
            }
            if receiver <= first {
                return;
            }
            receiver -= 1;
        }
        let chained = receiver > first && self.is_sign(receiver - 1, '.') && !self.is_range(receiver);
        if chained || self.words[receiver].kind != WordKind::Name {
            return;
        }
        let field = self.text_of(at).to_owned();
        let symbol = match self
            .find(self.text_of(receiver), span.start)
            .map(|local| &local.holds)
        {
            Some(Holds::Fact(fact_type)) if !indexed => Symbol::Field(fact_type.clone(), field),
            Some(Holds::Facts(fact_type)) if indexed => Symbol::Field(fact_type.clone(), field),
            _ => return,
        };
        self.occurs(span, symbol, false);
    }

    /// A name in quotes that is an argument of `insert`, `call` or `request`.
    fn quoted(&mut self, at: usize, first: usize) {
        if at < first + 2 || !self.is_sign(at - 1, '(') || (at > first + 2 && self.is_sign(at - 3, '.')) {
            return;
        }
        let span = self.words[at].span.clone();
        let closed = self.words[at].kind == WordKind::Text;
        let inside = span.start + 1..(span.end - usize::from(closed)).max(span.start + 1);
        let Some(name) = self.text.get(inside.clone()).map(str::to_owned) else {
            return;
        };
        let symbol = match self.text_of(at - 2) {
            "insert" if self.types.contains(name.as_str()) => Symbol::FactType(name),
            "call" => Symbol::Callable(name),
            "request" => Symbol::Operation(name),
            _ => return,
        };
        self.occurs(inside, symbol, false);
    }

    fn named(&self, at: usize) -> Named {
        Named {
            name: self.text_of(at).to_owned(),
            span: self.words[at].span.clone(),
        }
    }

    fn text_of(&self, at: usize) -> &'t str {
        self.words
            .get(at)
            .map_or("", |word| &self.text[word.span.clone()])
    }

    fn is_sign(&self, at: usize, sign: char) -> bool {
        self.words
            .get(at)
            .is_some_and(|word| word.kind == WordKind::Sign(sign))
    }

    fn is_name(&self, at: usize, end: usize) -> bool {
        at < end && self.words[at].kind == WordKind::Name
    }

    /// Whether the points before a word are a range, `0..n`, and no member.
    fn is_range(&self, at: usize) -> bool {
        at >= 2 && self.is_sign(at - 1, '.') && self.is_sign(at - 2, '.')
    }
}
