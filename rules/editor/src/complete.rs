//! What may stand at a place of the text.

use celesta_engine::{WordKind, script_functions};
use serde_json::{Value, json};

use crate::document::Document;
use crate::index::{Holds, Index};
use crate::language::{
    ACTIONS, AGGREGATES, CLAUSES, DECLARATIONS, ERROR_FIELDS, GIVEN, JOINTS, KINDS, PARTS, SCRIPT, TIMED,
};
use crate::outline::{Clause, Declared, Part};

/// What a proposal is, in the protocol's numbers.
#[derive(Debug, Clone, Copy)]
enum Sort {
    Method = 2,
    Function = 3,
    Field = 5,
    Variable = 6,
    Class = 7,
    Keyword = 14,
    Constant = 21,
}

/// Proposals while they are collected.
struct Proposals<'d> {
    document: &'d Document,
    index: &'d Index,
    /// The start of the word that is being written.
    start: usize,
    offset: usize,
    found: Vec<Value>,
}

/// The proposals for a place.
pub(crate) fn complete(document: &Document, offset: usize) -> Vec<Value> {
    let index = document.index();
    let text = document.text();
    if index
        .outline
        .comments
        .iter()
        .any(|span| span.start < offset && offset <= span.end)
    {
        return Vec::new();
    }
    let written = text[..offset]
        .rfind(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
        .map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
    let mut proposals = Proposals {
        document,
        index,
        start: written,
        offset,
        found: Vec::new(),
    };
    proposals.place();
    proposals.found
}

impl<'d> Proposals<'d> {
    fn place(&mut self) {
        let index = self.index;
        let words = &index.outline.words;
        // The words before the one that is being written.
        let before = words.partition_point(|word| word.span.start < self.start);
        let within = before.checked_sub(1).filter(|last| {
            let word = &words[*last];
            let quoted = matches!(word.kind, WordKind::Text | WordKind::Open)
                && !self.document.text()[word.span.clone()].starts_with('`');
            quoted
                && word.span.start < self.offset
                && (self.offset < word.span.end || word.kind == WordKind::Open)
        });
        if let Some(at) = within {
            return self.quoted(at);
        }
        if self.is_in_template(before) {
            return;
        }
        if before > 0 && self.text_at(before - 1) == "." && !(before > 1 && self.text_at(before - 2) == ".") {
            return self.member(before);
        }
        let Some(declaration) = index.declaration_at(self.start.saturating_sub(1)) else {
            return self.declarations();
        };
        let ended =
            declaration.span.end <= self.start && matches!(self.text_at(before.saturating_sub(1)), "}" | ";");
        if ended || declaration.span.start == self.start {
            return self.declarations();
        }
        match &declaration.what {
            Declared::Workflow | Declared::Const => {}
            Declared::Fact { .. } => {
                if self.text_at(before - 1) == ":" {
                    self.listed(KINDS, Sort::Keyword);
                }
            }
            Declared::Function { body, .. } => {
                if body.start <= before && before <= body.end {
                    self.script(before, None);
                }
            }
            Declared::Rule { clauses, parts } => {
                let part = parts
                    .iter()
                    .find(|(_, words)| words.start <= before && before <= words.end);
                match part {
                    Some((Part::Match, words)) => self.clause(clauses, words.start, before),
                    Some((part, _)) => self.script(before, Some(*part)),
                    None => self.listed(PARTS, Sort::Keyword),
                }
            }
        }
    }

    /// Whether the place is within the text of a template, and not within its `${…}`.
    fn is_in_template(&self, before: usize) -> bool {
        let text = self.document.text();
        let around = self.index.outline.words[..before].iter().rev().find(|word| {
            let open = word.kind == WordKind::Open && self.offset <= word.span.end;
            open || word.kind == WordKind::OtherText && self.offset < word.span.end
        });
        around.is_some_and(|template| {
            let lead = &text[template.span.start..self.offset];
            let inserted = lead.rfind("${").is_some_and(|at| !lead[at..].contains('}'));
            !inserted
        })
    }

    fn declarations(&mut self) {
        for (label, snippet, about) in DECLARATIONS {
            self.snippet(label, snippet, about);
        }
    }

    /// Within quotes: names of functions, operations and fact types.
    fn quoted(&mut self, at: usize) {
        let word = &self.index.outline.words[at];
        self.start = word.span.start + 1;
        if at < 2 || self.text_at(at - 1) != "(" {
            return;
        }
        let surroundings = &self.document.surroundings;
        match self.text_at(at - 2) {
            "call" => {
                for (name, callable) in &surroundings.callables {
                    let about = callable.description.as_deref().unwrap_or("");
                    self.add(name, Sort::Function, "function", about);
                }
            }
            "request" => {
                for (name, operation) in surroundings.requests() {
                    let about = operation.description.as_deref().unwrap_or("");
                    self.add(&name, Sort::Method, "operation", about);
                }
            }
            "insert" => self.fact_types(),
            _ => {}
        }
    }

    fn fact_types(&mut self) {
        let (index, document) = (self.index, self.document);
        for fact in index.outline.facts() {
            let text = document.text();
            let line = text[fact.span.clone()].lines().next().unwrap_or("");
            self.add(&fact.name.name, Sort::Class, line, "");
        }
    }

    /// After a point.
    fn member(&mut self, before: usize) {
        let mut receiver = before.saturating_sub(2);
        if self.text_at(receiver) == "?" {
            receiver = receiver.saturating_sub(1);
        }
        let name = self.text_at(receiver);
        if receiver > 0 && self.text_at(receiver - 1) == "." {
            return self.methods();
        }
        if name == "error" {
            for (name, about) in ERROR_FIELDS {
                self.add(name, Sort::Field, "", about);
            }
            return;
        }
        let mut locals = self.index.locals_at(self.start);
        let local = locals.find(|local| local.name.name == name);
        match local.map(|local| local.holds.clone()) {
            Some(Holds::Fact(fact_type)) => self.fields(&fact_type, &[]),
            _ => self.methods(),
        }
    }

    fn methods(&mut self) {
        for name in script_functions() {
            self.add(name, Sort::Method, "", "");
        }
    }

    fn fields(&mut self, fact_type: &str, without: &[&str]) {
        let (index, document) = (self.index, self.document);
        let Some((_, fields)) = index.outline.fact(fact_type) else {
            return;
        };
        for field in fields
            .iter()
            .filter(|field| !without.contains(&field.name.name.as_str()))
        {
            let kind = &document.text()[field.kind.clone()];
            self.add(&field.name.name, Sort::Field, kind, "");
        }
    }

    /// Within `match`.
    fn clause(&mut self, clauses: &[Clause], first: usize, before: usize) {
        let own = clauses
            .iter()
            .find(|one| one.words.start < before && before <= one.words.end);
        let start = own.map_or(before, |clause| clause.words.start);
        let previous = if before > first {
            self.text_at(before - 1)
        } else {
            ";"
        };
        if start == before || previous == ";" {
            self.listed(CLAUSES, Sort::Keyword);
            return;
        }
        let binds = before == start + 2 && previous == ":";
        let named = matches!(previous, "no" | "any") && before == start + 1;
        let counted =
            matches!(previous, "count" | "collect") && self.text_at(before.saturating_sub(2)) == "=";
        if binds || named || counted || matches!(previous, "of" | "shared") {
            self.fact_types();
            return;
        }
        if previous == "=" && before == start + 2 {
            self.listed(AGGREGATES, Sort::Keyword);
            return;
        }
        self.names();
        for timed in TIMED {
            self.add(timed.name, Sort::Function, timed.form, timed.about);
        }
        self.listed(JOINTS, Sort::Keyword);
    }

    /// Within a section or a function.
    fn script(&mut self, before: usize, part: Option<Part>) {
        if let Some((fact_type, given)) = self.inserted_fields(before) {
            let given: Vec<&str> = given.iter().map(String::as_str).collect();
            return self.fields(&fact_type, &given);
        }
        self.names();
        if let Some(part) = part {
            for action in ACTIONS
                .iter()
                .filter(|action| action.only.is_none_or(|only| only == part))
            {
                self.add(action.name, Sort::Function, action.form, action.about);
            }
        }
        for word in SCRIPT {
            self.add(word, Sort::Keyword, "", "");
        }
    }

    /// When a key of `insert("Type", #{ … })` is being written: the type, and the keys that are there.
    fn inserted_fields(&self, before: usize) -> Option<(String, Vec<String>)> {
        /// Words between the place and the map's opening that are looked at.
        const WORDS_MAX: usize = 2_000;
        if !matches!(self.text_at(before.checked_sub(1)?), "{" | ",") {
            return None;
        }
        let mut depth = 0_usize;
        let mut given = Vec::new();
        for at in (before.saturating_sub(WORDS_MAX)..before).rev() {
            match self.text_at(at) {
                ")" | "]" | "}" => depth += 1,
                ":" if depth == 0 && at > 0 => given.push(self.text_at(at - 1).to_owned()),
                "(" | "[" | "{" if depth > 0 => depth -= 1,
                "{" if at > 4 && self.text_at(at - 1) == "#" && self.text_at(at - 5) == "insert" => {
                    return Some((self.text_at(at - 3).trim_matches('"').to_owned(), given));
                }
                "(" | "[" | "{" => return None,
                _ => {}
            }
        }
        None
    }

    /// The names that are known here.
    fn names(&mut self) {
        let (index, document) = (self.index, self.document);
        let mut seen: Vec<&str> = Vec::new();
        for local in index.locals_at(self.start) {
            let name = local.name.name.as_str();
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            let detail = match &local.holds {
                Holds::Fact(fact_type) => fact_type.clone(),
                Holds::Facts(fact_type) => format!("list of {fact_type}"),
                Holds::Aggregate(word) => word.clone(),
                Holds::Anything => String::new(),
            };
            let about = GIVEN
                .iter()
                .find(|(given, _)| *given == name && local.name.span.is_empty());
            self.add(
                name,
                Sort::Variable,
                &detail,
                about.map_or("", |(_, about)| about),
            );
        }
        for declaration in &index.outline.declarations {
            let sort = match declaration.what {
                Declared::Const => Sort::Constant,
                Declared::Function { .. } => Sort::Function,
                _ => continue,
            };
            let text = document.text();
            let line = text[declaration.span.clone()].lines().next().unwrap_or("");
            self.add(&declaration.name.name, sort, line, "");
        }
    }

    fn listed(&mut self, words: &[(&str, &str)], sort: Sort) {
        for (word, about) in words {
            self.add(word, sort, "", about);
        }
    }

    fn add(&mut self, label: &str, sort: Sort, detail: &str, about: &str) {
        if label.is_empty() {
            return;
        }
        let range = self.document.range(&(self.start..self.offset));
        let mut proposal = json!({
            "label": label,
            "kind": sort as u8,
            "textEdit": { "range": range, "newText": label },
        });
        if !detail.is_empty() {
            proposal["detail"] = detail.into();
        }
        if !about.is_empty() {
            proposal["documentation"] = json!({ "kind": "markdown", "value": about });
        }
        self.found.push(proposal);
    }

    fn snippet(&mut self, label: &str, snippet: &str, about: &str) {
        self.add(label, Sort::Keyword, "", about);
        if let Some(proposal) = self.found.last_mut() {
            proposal["textEdit"]["newText"] = snippet.into();
            proposal["insertTextFormat"] = 2.into();
        }
    }

    fn text_at(&self, at: usize) -> &'d str {
        let words = &self.index.outline.words;
        words
            .get(at)
            .map_or("", |word| &self.document.text()[word.span.clone()])
    }
}
