//! The text of a rules file: words, declarations, places. What the declarations mean is decided in `compile`.

pub(crate) mod lexer;
pub(crate) mod parser;
pub(crate) mod place;
pub(crate) mod words;

use std::ops::Range;

/// A part of the text, in bytes.
pub(crate) type Span = Range<usize>;

/// A name and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub text: String,
    pub span: Span,
}

#[derive(Debug, Clone)]
pub(crate) struct FieldDecl {
    pub name: Name,
    pub kind: Name,
    pub optional: bool,
    pub default: Option<Span>,
}

#[derive(Debug, Clone)]
pub(crate) struct FactDecl {
    pub name: Name,
    pub shared: bool,
    pub fields: Vec<FieldDecl>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClauseKind {
    Bind,
    No,
    Any,
    Count,
    Sum,
    Min,
    Max,
    Collect,
    If,
}

#[derive(Debug, Clone)]
pub(crate) struct Clause {
    pub kind: ClauseKind,
    /// The bound fact, or the name of the aggregate's value.
    pub name: Option<Name>,
    pub fact_type: Option<Name>,
    /// Whether `shared` stands before the type.
    pub shared: bool,
    /// The name of the fact within `no`, `any` and the aggregates.
    pub inner: Option<Name>,
    /// What `sum`, `min` and `max` look at.
    pub measure: Option<Span>,
    pub filter: Option<Span>,
    pub order: Option<Span>,
    pub span: Span,
}

#[derive(Debug, Clone)]
pub(crate) struct RuleDecl {
    pub name: Name,
    pub salience: i32,
    pub clauses: Vec<Clause>,
    /// Insides of the braces of action, reaction and error.
    pub sections: [Option<Span>; 3],
}

#[derive(Debug, Clone)]
pub(crate) struct FnDecl {
    pub name: Name,
    pub parameters: usize,
    pub span: Span,
}

#[derive(Debug, Clone)]
pub(crate) struct ConstDecl {
    pub name: Name,
    pub value: Span,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct File {
    pub workflow: Option<Name>,
    pub facts: Vec<FactDecl>,
    pub consts: Vec<ConstDecl>,
    pub functions: Vec<FnDecl>,
    pub rules: Vec<RuleDecl>,
}
