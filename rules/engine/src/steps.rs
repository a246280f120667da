//! A section in native form: what `compile::effects` makes of a script and `memory::effects` runs.
//!
//! The form covers a part of the script language only, and only what goes well: whatever would throw, and whatever this
//! form does not know, is left to the script, which then runs from the start. So errors are the script's own.

use std::sync::Arc;

use crate::Value;
use crate::expression::{Binary, Builtin};
use crate::value::Text;

/// The number of a register; parameters of the script come first.
pub(crate) type Register = u16;

/// A whole section.
#[derive(Debug)]
pub(crate) struct Steps {
    pub body: Block,
    pub registers: usize,
    /// The file's own functions that it calls, by number.
    pub functions: Box<[Function]>,
}

/// One of the file's own functions, for arguments of certain kinds.
#[derive(Debug, Default)]
pub(crate) struct Function {
    pub body: Block,
    pub registers: usize,
}

/// A call of one of the file's own functions.
#[derive(Debug)]
pub(crate) struct Own {
    pub function: usize,
    pub arguments: Box<[Argument]>,
}

#[derive(Debug)]
pub(crate) enum Argument {
    Value(Expr),
    Fact(Register),
}

pub(crate) type Block = Box<[Step]>;

/// One statement.
#[derive(Debug)]
pub(crate) struct Step {
    /// At least the operations that the script engine counts for it, loops and branches apart.
    pub cost: u64,
    pub act: Act,
}

#[derive(Debug)]
pub(crate) enum Act {
    Nothing,
    /// `let x = …`, `x = …`.
    Set(Register, Source),
    /// `x += …`.
    Change(Register, Binary, Expr),
    /// `list.push(…)`.
    Push(Register, Expr),
    /// `fact.slot = …`.
    Write(Place, Expr),
    /// `fact.slot += …`.
    Alter(Place, Binary, Expr),
    /// An effect whose value is not kept.
    Do(Effect),
    If(Expr, Block, Block),
    While(Loop),
    For(Box<For>),
    Break,
    Continue,
    Return,
    /// What a function gives back.
    Give(Source),
    /// What the script alone can do: throw.
    Leave,
}

/// A slot of the fact in a register.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub fact: Register,
    pub slot: usize,
}

#[derive(Debug)]
pub(crate) struct Loop {
    /// Without a condition it goes on until it is left.
    pub condition: Option<Expr>,
    pub cost: u64,
    pub body: Block,
}

#[derive(Debug)]
pub(crate) struct For {
    pub element: Register,
    pub counter: Option<Register>,
    pub over: Over,
    pub body: Block,
}

/// What a `for` goes through.
#[derive(Debug)]
pub(crate) enum Over {
    List(Expr),
    /// From, to, and whether the end belongs to it.
    Range(Expr, Expr, bool),
    /// The collected facts in a register.
    Facts(Register),
}

/// Where the value of a register comes from.
#[derive(Debug)]
pub(crate) enum Source {
    Value(Expr),
    Fact(Register),
    Effect(Effect),
}

/// What touches facts or the world.
#[derive(Debug)]
pub(crate) enum Effect {
    Insert(Box<Insert>),
    Retract(Register),
    Call(Box<Call>),
    Request(Box<Call>),
    Timer(Expr),
    Emit(Expr, Json),
    Complete(Json),
    Fail(Expr, Option<Json>),
    Retry(Expr),
    Progress(Expr, Expr),
    Log(Expr),
    Random,
    Uid,
    Halt,
    /// A function of the file that may have effects.
    Own(Own),
}

#[derive(Debug)]
pub(crate) struct Insert {
    pub kind: usize,
    /// The defaults.
    pub slots: Box<[Value]>,
    /// The slots that are given, in the order of the text.
    pub given: Box<[(usize, Expr)]>,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub target: Expr,
    /// The name when it is written out.
    pub name: Option<Arc<str>>,
    pub input: Json,
    pub options: Expr,
}

/// A value that is written as JSON text at once.
#[derive(Debug)]
pub(crate) struct Json {
    pub pieces: Box<[Piece]>,
    /// The lists' elements, the maps' entries and the bytes of strings that are written out.
    pub sizes: Sizes,
}

/// What the script engine counts of a value: elements of lists, entries of maps, bytes of strings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub lists: usize,
    pub maps: usize,
    pub strings: usize,
}

#[derive(Debug)]
pub(crate) enum Piece {
    /// Text between values.
    Text(Box<str>),
    /// A value, and how many lists and maps stand around it.
    Value(Expr, usize),
}

/// An expression without effects.
#[derive(Debug)]
pub(crate) enum Expr {
    Const(Value),
    Register(Register),
    Slot(Place),
    Now,
    Exists(Register),
    SameFact(Register, Register),
    /// The number of collected facts.
    Count(Register),
    Get(Box<Self>, Text),
    Index(Box<(Self, Self)>),
    Not(Box<Self>),
    Negate(Box<Self>),
    Binary(Binary, Box<(Self, Self)>),
    All(Box<[Self]>),
    Some(Box<[Self]>),
    Coalesce(Box<[Self]>),
    Choose(Box<(Self, Self, Self)>),
    Builtin(Builtin, Box<[Self]>),
    List(Box<[Self]>),
    Map(Box<[(Text, Self)]>),
    Joined(Box<[Self]>),
    /// A function of the file that has none.
    Own(Box<Own>),
}
