//! Runs a section in native form: no script engine, no copies of values.
//!
//! It does what the script would do, or nothing: at whatever would throw, and at whatever is not certain to mean the same
//! in the script engine, it stops as [`Unsure`], and the section is undone and run as a script. So native sections need no
//! errors of their own, and the script's are the only ones anybody sees. Operations are counted at least as high as the
//! script engine counts them: a section that might exceed its bound is left to the engine, which decides.

mod value;

use smallvec::SmallVec;

use super::section::Context;
use crate::Value;
use crate::steps::{Act, Block, Call, Effect, Expr, For, Insert, Loop, Over, Source, Step, Steps};
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

struct Runner<'a> {
    context: &'a mut Context,
    cells: Cells,
    /// For registers that are pushed to: what the lists hold, as far as it is known.
    grown: SmallVec<[usize; 2]>,
    spent: u64,
    look_at: u64,
    began: u64,
}

/// Runs the steps; `cells` are the arguments.
pub(crate) fn run(steps: &Steps, context: &mut Context, mut cells: Cells) -> Result<(), Stop> {
    cells.resize(steps.registers, Cell::Value(Value::Null));
    let clock = context.rules.limits.clock;
    let mut runner = Runner {
        context,
        cells,
        grown: SmallVec::new(),
        spent: 0,
        look_at: if clock.is_some() { CLOCK_EVERY } else { u64::MAX },
        began: clock.map_or(0, |clock| clock()),
    };
    runner.block(&steps.body)?;
    Ok(())
}

impl Runner<'_> {
    fn spend(&mut self, cost: u64) -> Result<(), Stop> {
        self.spent += cost;
        let bound = self.context.rules.limits.operations;
        if self.spent > bound && bound > 0 {
            return Err(Stop::Unsure);
        }
        if self.spent >= self.look_at {
            self.look_at = self.spent + CLOCK_EVERY;
            let limits = &self.context.rules.limits;
            if let Some(clock) = limits.clock
                && clock().saturating_sub(self.began) > limits.section_ms
            {
                return Err(Stop::Slow);
            }
        }
        Ok(())
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
                let cell = match source {
                    Source::Value(expr) => Cell::Value(self.value(expr)?.into_owned()),
                    Source::Fact(other) => self.cells[usize::from(*other)].clone(),
                    Source::Effect(effect) => self.effect(effect)?,
                };
                self.set(*register, cell);
            }
            Act::Change(register, operator, expr) => self.change(*register, *operator, expr)?,
            Act::Push(register, expr) => self.push(*register, expr)?,
            Act::Write(place, expr) => {
                let value = self.value(expr)?.into_owned();
                let fact = self.fact(place.fact)?;
                self.context.write_slot(fact, place.slot, value).ok_or(Unsure)?;
            }
            Act::Alter(place, operator, expr) => {
                let right = self.value(expr)?.into_owned();
                let fact = self.fact(place.fact)?;
                let left = self.context.slot_value(fact, place.slot).ok_or(Unsure)?;
                let value = binary(*operator, left, &right)?;
                self.short(&value)?;
                self.context.write_slot(fact, place.slot, value).ok_or(Unsure)?;
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
            Act::Leave => return Err(Stop::Unsure),
        }
        Ok(Flow::Next)
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
                let store = facts
                    .iter()
                    .map(|id| (*id, self.context.store.find(*id)))
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
            Effect::Retract(register) => {
                let fact = self.fact(*register)?;
                self.context.retract(fact.id)
            }
            Effect::Call(call) => {
                let index = self.call(call)?;
                return Ok(Cell::Value(Value::Int(index)));
            }
            Effect::Request(call) => {
                let target = self.text(&call.target)?;
                let (input, _) = self.json(&call.input)?;
                let options = self.value(&call.options)?.into_owned();
                let index = self
                    .context
                    .request_json(&target, input, &options)
                    .map_err(|_| Unsure)?;
                return Ok(Cell::Value(Value::Int(index)));
            }
            Effect::Timer(when) => {
                let when = self.value(when)?.into_owned();
                let index = self.context.timer(&when).map_err(|_| Unsure)?;
                return Ok(Cell::Value(Value::Int(index)));
            }
            Effect::Emit(event_type, content) => {
                let event_type = self.text(event_type)?;
                let (json, _) = self.json(content)?;
                self.context.emit_json(&event_type, json)
            }
            Effect::Complete(result) => {
                let (json, _) = self.json(result)?;
                self.context.complete_json(json)
            }
            Effect::Fail(message, content) => {
                let message = self.text(message)?;
                let content = match content {
                    Some(content) => Some(self.json(content)?.0),
                    None => None,
                };
                self.context.fail_json(&message, content)
            }
            Effect::Retry(options) => {
                let options = self.value(options)?.into_owned();
                self.context.retry(&options)
            }
            Effect::Progress(fraction, text) => {
                let fraction = self.value(fraction)?.into_owned();
                let text = self.text(text)?;
                self.context.progress(&fraction, &text)
            }
            Effect::Log(line) => {
                let line = value::text_of(&*self.value(line)?);
                self.context.log("info", &line)
            }
            Effect::Random => {
                let number = self.context.random();
                return Ok(Cell::Value(Value::Float(number)));
            }
            Effect::Uid => {
                let text = self.context.uid();
                return Ok(Cell::Value(text.into()));
            }
            Effect::Halt => {
                self.context.halting = true;
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
            slots[*slot] = self.context.rules.types[insert.kind].fields[*slot]
                .checked(value)
                .map_err(|_| Unsure)?;
        }
        let id = self.context.add(insert.kind, slots).map_err(|_| Unsure)?;
        Ok(Cell::Fact(Held { id, place: None }))
    }

    fn call(&mut self, call: &Call) -> Result<i64, Stop> {
        let (input, artifacts) = self.json(&call.input)?;
        let name = match &call.name {
            Some(name) => name.clone(),
            None => self.text(&call.target)?.as_str().into(),
        };
        let index = match &call.options {
            Expr::Const(Value::Null) => self.context.call_json(name, input, artifacts, &Value::Null),
            options => {
                let options = self.value(options)?.into_owned();
                self.context.call_json(name, input, artifacts, &options)
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
