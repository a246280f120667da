//! Runs a section in native form: no script engine, no copies of values.
//!
//! It does what the script would do, or nothing: at whatever would throw, and at whatever is not certain to mean the same
//! in the script engine, it stops as [`Unsure`], and the section is undone and run as a script. So native sections need no
//! errors of their own, and the script's are the only ones anybody sees. Operations are counted at least as high as the
//! script engine counts them: a section that might exceed its bound is left to the engine, which decides.

mod value;

use std::cell::Cell as Counter;

use smallvec::SmallVec;

use super::section::Context;
use crate::Value;
use crate::limits::Limits;
use crate::ruleset::RuleSet;
use crate::steps::{
    Act, Argument, Block, Call, Effect, Expr, For, Function, Insert, Loop, Over, Own, Source, Step, Steps,
};
pub(crate) use value::binary;

/// A native form cannot say what happens here; the script can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unsure;

/// Why a native section stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Unsure,
    /// The host's clock says that it takes too long.
    Slow,
}

impl From<Unsure> for Stop {
    fn from(_: Unsure) -> Self {
        Self::Unsure
    }
}

/// What a register holds.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    Value(Value),
    Fact(Held),
    Facts(Vec<u64>),
}

/// A fact by its number, and its place in the store when it had one as the section began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub id: u64,
    pub place: Option<u32>,
}

/// How a block ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
    Return,
}

/// Operations between two looks at the host's clock.
const CLOCK_EVERY: u64 = 1_024;

pub(crate) type Cells = SmallVec<[Cell; 6]>;

/// How much deeper than native functions the script engine takes calls to nest: the section and a closure around them.
const DEPTH_SPARE: usize = 2;

/// What a section, or a function within an expression, may touch.
enum Access<'a> {
    All(&'a mut Context),
    Read(&'a Context),
    /// A function of a condition: its arguments only.
    Nothing(&'a RuleSet),
}

impl Access<'_> {
    fn rules(&self) -> &RuleSet {
        match self {
            Self::All(context) => &context.rules,
            Self::Read(context) => &context.rules,
            Self::Nothing(rules) => rules,
        }
    }

    fn read(&self) -> Result<&Context, Unsure> {
        match self {
            Self::All(context) => Ok(context),
            Self::Read(context) => Ok(context),
            Self::Nothing(_) => Err(Unsure),
        }
    }

    fn all(&mut self) -> Result<&mut Context, Unsure> {
        match self {
            Self::All(context) => Ok(context),
            Self::Read(_) | Self::Nothing(_) => Err(Unsure),
        }
    }

    /// The same without effects.
    fn narrowed(&self) -> Access<'_> {
        match self {
            Self::All(context) => Access::Read(context),
            Self::Read(context) => Access::Read(context),
            Self::Nothing(rules) => Access::Nothing(rules),
        }
    }
}

struct Runner<'a> {
    access: Access<'a>,
    functions: &'a [Function],
    cells: Cells,
    /// For registers that are pushed to: what the lists hold, as far as it is known.
    grown: SmallVec<[usize; 2]>,
    spent: Counter<u64>,
    look_at: Counter<u64>,
    began: u64,
    slow: Counter<bool>,
    /// How many functions are under way.
    depth: usize,
    /// What the function that has ended gives back.
    given: Cell,
}

impl<'a> Runner<'a> {
    fn new(access: Access<'a>, functions: &'a [Function], cells: Cells) -> Self {
        let clock = access.rules().limits.clock;
        Self {
            access,
            functions,
            cells,
            grown: SmallVec::new(),
            spent: Counter::new(0),
            look_at: Counter::new(if clock.is_some() { CLOCK_EVERY } else { u64::MAX }),
            began: clock.map_or(0, |clock| clock()),
            slow: Counter::new(false),
            depth: 0,
            given: Cell::Value(Value::Null),
        }
    }
}

/// Runs the steps; `cells` are the arguments.
pub(crate) fn run(steps: &Steps, context: &mut Context, mut cells: Cells) -> Result<(), Stop> {
    cells.resize(steps.registers, Cell::Value(Value::Null));
    let mut runner = Runner::new(Access::All(context), &steps.functions, cells);
    match runner.block(&steps.body) {
        Ok(_) => Ok(()),
        Err(_) if runner.slow.get() => Err(Stop::Slow),
        Err(stop) => Err(stop),
    }
}

/// What a function of the file, the first of these steps, makes of values alone.
pub(crate) fn apply(functions: &[Function], rules: &RuleSet, arguments: Cells) -> Result<Value, Unsure> {
    let function = functions.first().ok_or(Unsure)?;
    let mut cells = arguments;
    cells.resize(function.registers, Cell::Value(Value::Null));
    let mut runner = Runner::new(Access::Nothing(rules), functions, cells);
    runner.block(&function.body).map_err(|_| Unsure)?;
    match runner.given {
        Cell::Value(value) => Ok(value),
        Cell::Fact(_) | Cell::Facts(_) => Err(Unsure),
    }
}

impl Runner<'_> {
    fn limits(&self) -> &Limits {
        &self.access.rules().limits
    }

    fn spend(&self, cost: u64) -> Result<(), Stop> {
        let spent = self.spent.get() + cost;
        self.spent.set(spent);
        let bound = self.limits().operations;
        if spent > bound && bound > 0 {
            return Err(Stop::Unsure);
        }
        if spent >= self.look_at.get() {
            self.look_at.set(spent + CLOCK_EVERY);
            let limits = self.limits();
            if let Some(clock) = limits.clock
                && clock().saturating_sub(self.began) > limits.section_ms
            {
                self.slow.set(true);
                return Err(Stop::Slow);
            }
        }
        Ok(())
    }

    /// The registers that a function of the file begins with.
    fn frame(&self, own: &Own) -> Result<Cells, Unsure> {
        // The script engine has the last word on what nests too deep.
        if self.depth + DEPTH_SPARE >= self.limits().call_depth {
            return Err(Unsure);
        }
        let mut cells = Cells::new();
        for argument in &own.arguments {
            cells.push(match argument {
                Argument::Value(expr) => Cell::Value(self.value(expr)?.into_owned()),
                Argument::Fact(register) => self.cells[usize::from(*register)].clone(),
            });
        }
        cells.resize(self.functions[own.function].registers, Cell::Value(Value::Null));
        Ok(cells)
    }

    /// Calls a function of the file for its value; it has no effects.
    fn pure(&self, own: &Own) -> Result<Value, Unsure> {
        let cells = self.frame(own)?;
        let mut inner = Runner {
            access: self.access.narrowed(),
            functions: self.functions,
            cells,
            grown: SmallVec::new(),
            spent: self.spent.clone(),
            look_at: self.look_at.clone(),
            began: self.began,
            slow: Counter::new(false),
            depth: self.depth + 1,
            given: Cell::Value(Value::Null),
        };
        let ran = inner.block(&self.functions[own.function].body);
        self.spent.set(inner.spent.get());
        self.look_at.set(inner.look_at.get());
        self.slow.set(inner.slow.get());
        match (ran, inner.given) {
            (Ok(_), Cell::Value(value)) => Ok(value),
            _ => Err(Unsure),
        }
    }

    /// Calls a function of the file that may have effects.
    fn own(&mut self, own: &Own) -> Result<Cell, Stop> {
        let cells = self.frame(own)?;
        let functions = self.functions;
        let outer = std::mem::replace(&mut self.cells, cells);
        let grown = std::mem::take(&mut self.grown);
        self.given = Cell::Value(Value::Null);
        self.depth += 1;
        let ran = self.block(&functions[own.function].body);
        self.depth -= 1;
        self.cells = outer;
        self.grown = grown;
        ran?;
        Ok(std::mem::replace(&mut self.given, Cell::Value(Value::Null)))
    }

    fn block(&mut self, block: &Block) -> Result<Flow, Stop> {
        for step in block {
            match self.step(step)? {
                Flow::Next => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::Next)
    }

    fn step(&mut self, step: &Step) -> Result<Flow, Stop> {
        self.spend(step.cost)?;
        match &step.act {
            Act::Nothing => {}
            Act::Set(register, source) => {
                let cell = self.source(source)?;
                self.set(*register, cell);
            }
            Act::Change(register, operator, expr) => self.change(*register, *operator, expr)?,
            Act::Push(register, expr) => self.push(*register, expr)?,
            Act::Write(place, expr) => {
                let value = self.value(expr)?.into_owned();
                let fact = self.fact(place.fact)?;
                let context = self.access.all()?;
                context.write_slot(fact, place.slot, value).ok_or(Unsure)?;
            }
            Act::Alter(place, operator, expr) => {
                let right = self.value(expr)?.into_owned();
                let fact = self.fact(place.fact)?;
                let left = self.access.read()?.slot_value(fact, place.slot).ok_or(Unsure)?;
                let value = binary(*operator, left, &right)?;
                self.short(&value)?;
                let context = self.access.all()?;
                context.write_slot(fact, place.slot, value).ok_or(Unsure)?;
            }
            Act::Do(effect) => {
                self.effect(effect)?;
            }
            Act::If(condition, body, branch) => {
                let block = if self.truth(condition)? { body } else { branch };
                return self.block(block);
            }
            Act::While(inner) => return self.repeat(inner),
            Act::For(inner) => return self.walk(inner),
            Act::Break => return Ok(Flow::Break),
            Act::Continue => return Ok(Flow::Continue),
            Act::Return => return Ok(Flow::Return),
            Act::Give(source) => {
                self.given = self.source(source)?;
                return Ok(Flow::Return);
            }
            Act::Leave => return Err(Stop::Unsure),
        }
        Ok(Flow::Next)
    }

    fn source(&mut self, source: &Source) -> Result<Cell, Stop> {
        Ok(match source {
            Source::Value(expr) => Cell::Value(self.value(expr)?.into_owned()),
            Source::Fact(other) => self.cells[usize::from(*other)].clone(),
            Source::Effect(effect) => self.effect(effect)?,
        })
    }

    fn set(&mut self, register: u16, cell: Cell) {
        let at = usize::from(register);
        self.cells[at] = cell;
        if let Some(grown) = self.grown.get_mut(at) {
            *grown = 0;
        }
    }

    fn repeat(&mut self, inner: &Loop) -> Result<Flow, Stop> {
        loop {
            self.spend(inner.cost)?;
            if let Some(condition) = &inner.condition
                && !self.truth(condition)?
            {
                return Ok(Flow::Next);
            }
            match self.block(&inner.body)? {
                Flow::Next | Flow::Continue => {}
                Flow::Break => return Ok(Flow::Next),
                Flow::Return => return Ok(Flow::Return),
            }
        }
    }

    fn walk(&mut self, inner: &For) -> Result<Flow, Stop> {
        match &inner.over {
            Over::List(expr) => {
                let Value::List(values) = self.value(expr)?.into_owned() else {
                    return Err(Stop::Unsure);
                };
                let cells = values.iter().map(|value| Cell::Value(value.clone()));
                self.each(inner, cells)
            }
            Over::Range(from, to, whole) => {
                let (from, to) = (self.int(from)?, self.int(to)?);
                let end = if *whole {
                    to.checked_add(1).ok_or(Unsure)?
                } else {
                    to
                };
                self.each(inner, (from..end).map(|at| Cell::Value(Value::Int(at))))
            }
            Over::Facts(register) => {
                let Cell::Facts(facts) = self.cells[usize::from(*register)].clone() else {
                    return Err(Stop::Unsure);
                };
                let context = self.access.read()?;
                let store = facts
                    .iter()
                    .map(|id| (*id, context.store.find(*id)))
                    .collect::<Vec<_>>();
                let cells = store
                    .into_iter()
                    .map(|(id, place)| Cell::Fact(Held { id, place }));
                self.each(inner, cells)
            }
        }
    }

    fn each(&mut self, inner: &For, cells: impl Iterator<Item = Cell>) -> Result<Flow, Stop> {
        for (count, cell) in (0_i64..).zip(cells) {
            self.spend(1)?;
            if let Some(counter) = inner.counter {
                self.set(counter, Cell::Value(Value::Int(count)));
            }
            self.set(inner.element, cell);
            match self.block(&inner.body)? {
                Flow::Next | Flow::Continue => {}
                Flow::Break => break,
                Flow::Return => return Ok(Flow::Return),
            }
        }
        Ok(Flow::Next)
    }

    fn effect(&mut self, effect: &Effect) -> Result<Cell, Stop> {
        let done = match effect {
            Effect::Insert(insert) => return self.insert(insert),
            Effect::Own(own) => return self.own(own),
            Effect::Retract(register) => {
                let fact = self.fact(*register)?;
                self.access.all()?.retract(fact.id)
            }
            Effect::Call(call) => {
                let index = self.call(call)?;
                return Ok(Cell::Value(Value::Int(index)));
            }
            Effect::Request(call) => {
                let target = self.text(&call.target)?;
                let (input, _) = self.json(&call.input)?;
                let options = self.value(&call.options)?.into_owned();
                let index =
                    (self.access.all()?.request_json(&target, input, &options)).map_err(|_| Unsure)?;
                return Ok(Cell::Value(Value::Int(index)));
            }
            Effect::Timer(when) => {
                let when = self.value(when)?.into_owned();
                let index = self.access.all()?.timer(&when).map_err(|_| Unsure)?;
                return Ok(Cell::Value(Value::Int(index)));
            }
            Effect::Emit(event_type, content) => {
                let event_type = self.text(event_type)?;
                let (json, _) = self.json(content)?;
                self.access.all()?.emit_json(&event_type, json)
            }
            Effect::Complete(result) => {
                let (json, _) = self.json(result)?;
                self.access.all()?.complete_json(json)
            }
            Effect::Fail(message, content) => {
                let message = self.text(message)?;
                let content = match content {
                    Some(content) => Some(self.json(content)?.0),
                    None => None,
                };
                self.access.all()?.fail_json(&message, content)
            }
            Effect::Retry(options) => {
                let options = self.value(options)?.into_owned();
                self.access.all()?.retry(&options)
            }
            Effect::Progress(fraction, text) => {
                let fraction = self.value(fraction)?.into_owned();
                let text = self.text(text)?;
                self.access.all()?.progress(&fraction, &text)
            }
            Effect::Log(line) => {
                let line = value::text_of(&*self.value(line)?);
                self.access.all()?.log("info", &line)
            }
            Effect::Random => {
                let number = self.access.all()?.random();
                return Ok(Cell::Value(Value::Float(number)));
            }
            Effect::Uid => {
                let text = self.access.all()?.uid();
                return Ok(Cell::Value(text.into()));
            }
            Effect::Halt => {
                self.access.all()?.halting = true;
                Ok(())
            }
        };
        match done {
            Ok(()) => Ok(Cell::Value(Value::Null)),
            Err(_) => Err(Stop::Unsure),
        }
    }

    fn insert(&mut self, insert: &Insert) -> Result<Cell, Stop> {
        let mut slots = insert.slots.clone();
        for (slot, expr) in &insert.given {
            let value = self.value(expr)?.into_owned();
            let field = &self.access.rules().types[insert.kind].fields[*slot];
            slots[*slot] = field.checked(value).map_err(|_| Unsure)?;
        }
        let id = self.access.all()?.add(insert.kind, slots).map_err(|_| Unsure)?;
        Ok(Cell::Fact(Held { id, place: None }))
    }

    fn call(&mut self, call: &Call) -> Result<i64, Stop> {
        let (input, artifacts) = self.json(&call.input)?;
        let name = match &call.name {
            Some(name) => name.clone(),
            None => self.text(&call.target)?.as_str().into(),
        };
        let index = match &call.options {
            Expr::Const(Value::Null) => (self.access.all()?).call_json(name, input, artifacts, &Value::Null),
            options => {
                let options = self.value(options)?.into_owned();
                (self.access.all()?).call_json(name, input, artifacts, &options)
            }
        };
        index.map_err(|_| Stop::Unsure)
    }

    fn fact(&self, register: u16) -> Result<Held, Unsure> {
        match &self.cells[usize::from(register)] {
            Cell::Fact(held) => Ok(*held),
            _ => Err(Unsure),
        }
    }
}
