//! What each name of a file refers to: the base of definition, references, rename, hover and completion.
//!
//! Built anew after a change, in one pass over the words; a file of the largest size that is allowed takes a few
//! milliseconds. What cannot be resolved is left out, so that a rename never touches a name it does not know.

mod scope;

use crate::outline::{Declaration, Declared, Named, Outline, Part, Span};
use scope::Reader;

/// What a name refers to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Symbol {
    FactType(String),
    Field(String, String),
    /// A name of one rule or function, by the place of its declaration.
    Local(usize),
    Const(String),
    /// A function of this file.
    Function(String),
    Rule(String),
    Workflow(String),
    /// A function of the bundle, named in `call`.
    Callable(String),
    /// `service/operation`, named in `request`.
    Operation(String),
    /// What sections can do, or the script language's own.
    Builtin(String),
}

/// A name in the text.
#[derive(Debug, Clone)]
pub(crate) struct Occurrence {
    pub(crate) span: Span,
    pub(crate) symbol: Symbol,
    pub(crate) defines: bool,
}

/// What a local name holds, as far as it can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holds {
    Fact(String),
    /// A list of facts.
    Facts(String),
    /// A number, from `count` and the like.
    Aggregate(String),
    Anything,
}

/// A name of a rule or a function, and where it is known.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub(crate) name: Named,
    pub(crate) holds: Holds,
    pub(crate) known: Span,
}

/// An outline and what its names refer to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    pub(crate) outline: Outline,
    /// In the order of their places.
    pub(crate) occurrences: Vec<Occurrence>,
    pub(crate) locals: Vec<Local>,
}

impl Index {
    pub(crate) fn of(text: &str) -> Self {
        let outline = Outline::of(text);
        let mut reader = Reader::new(text, &outline);
        for declaration in &outline.declarations {
            declared(&mut reader, declaration);
        }
        let (mut occurrences, locals) = reader.finish();
        occurrences.sort_by_key(|one| one.span.start);
        Self {
            outline,
            occurrences,
            locals,
        }
    }

    /// The name at an offset, or that ends there.
    pub(crate) fn at(&self, offset: usize) -> Option<&Occurrence> {
        let after = self.occurrences.partition_point(|one| one.span.start <= offset);
        let one = self.occurrences[..after].last()?;
        (offset <= one.span.end).then_some(one)
    }

    pub(crate) fn all<'i>(&'i self, symbol: &'i Symbol) -> impl Iterator<Item = &'i Occurrence> {
        self.occurrences.iter().filter(move |one| one.symbol == *symbol)
    }

    pub(crate) fn definition(&self, symbol: &Symbol) -> Option<&Occurrence> {
        self.occurrences
            .iter()
            .find(|one| one.defines && one.symbol == *symbol)
    }

    /// The names known at an offset, inner ones first.
    pub(crate) fn locals_at(&self, offset: usize) -> impl Iterator<Item = &Local> {
        let known = move |local: &&Local| local.known.start <= offset && offset <= local.known.end;
        self.locals.iter().rev().filter(known)
    }

    pub(crate) fn local(&self, declared: usize) -> Option<&Local> {
        self.locals.iter().find(|local| local.name.span.start == declared)
    }

    pub(crate) fn declaration_at(&self, offset: usize) -> Option<&Declaration> {
        let declarations = &self.outline.declarations;
        let after = declarations.partition_point(|one| one.span.start <= offset);
        declarations[..after].last()
    }
}

fn declared(reader: &mut Reader<'_>, declaration: &Declaration) {
    let name = &declaration.name;
    let symbol = match &declaration.what {
        Declared::Workflow => Symbol::Workflow(name.name.clone()),
        Declared::Fact { .. } => Symbol::FactType(name.name.clone()),
        Declared::Const => Symbol::Const(name.name.clone()),
        Declared::Function { .. } => Symbol::Function(name.name.clone()),
        Declared::Rule { .. } => Symbol::Rule(name.name.clone()),
    };
    if !name.name.is_empty() {
        reader.occurs(name.span.clone(), symbol, true);
    }
    match &declaration.what {
        Declared::Fact { fields } => {
            for field in fields {
                let symbol = Symbol::Field(name.name.clone(), field.name.name.clone());
                reader.occurs(field.name.span.clone(), symbol, true);
            }
        }
        Declared::Function { parameters, body } => {
            let known = reader.place(body);
            for parameter in parameters {
                reader.declare(parameter.clone(), Holds::Anything, known.clone());
            }
            reader.script(body.clone());
        }
        Declared::Rule { clauses, parts } => {
            let end = declaration.span.end;
            for clause in clauses {
                reader.clause(clause, end);
            }
            for (part, words) in parts {
                let known = reader.place(words);
                let given: &[&str] = match part {
                    Part::Reaction => &["result", "results"],
                    Part::Error => &["error", "results"],
                    Part::Match | Part::Action => &[],
                };
                for name in given {
                    reader.given(name, known.clone());
                }
                if *part != Part::Match {
                    reader.script(words.clone());
                }
            }
        }
        Declared::Const | Declared::Workflow => {}
    }
    reader.leave();
}
