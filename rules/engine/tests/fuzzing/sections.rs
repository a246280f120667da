//! Random sections, run in native form and as scripts: effects, changes, errors and states must be the same.

use std::fmt::Write as _;
use std::sync::Arc;

use celesta_engine::{
    CallError, Effect, Environment, ErrorClass, Event, Limits, Outcome, RuleSet, RunId, Section, Source,
    Turn, Value, WorkingMemory, compile,
};

use super::choices::Choices;

const FACTS: &str = "workflow w;
const LIMIT = 3;
const WORD = \"word\";
fact A { n: int = 0, s: string = \"\", f: float = 0.5, b: bool = false, l: list = [], m: map = #{}, x: any, o: int?, done: bool = false }
fact B { n: int = 0, s: string = \"\" }
fn twice(x) { x + x }
fn larger(x, y) { if x > y { return x; } y }
fn times(n) { if n <= 1 { 1 } else { n * times(n - 1) } }
fn even(n) { n == 0 || odd(n - 1) }
fn odd(n) { n != 0 && even(n - 1) }
fn label(x, s) { let t = `${s}:${x}`; for i in 0..2 { t += \".\"; } t }
fn total(l) { let t = 0; for x in l { if x == LIMIT { continue; } t += x; } t }
fn first(l) { for x in l { return x; } }
fn bump(x) { x.n += 1; x.n }
fn make(n) { if n > 6 { throw \"too many\"; } insert(\"B\", #{ n: n, s: \"made\" }); n }
fn nothing() { }
fn turn(x) { let i = 0; while i < 3 { i += 1; if x == i { break; } } #{ i: i, x: x } }
";

/// What became of the random sections.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// Programs that compiled.
    pub(crate) compiled: u64,
    /// Actions in native form.
    pub(crate) native: u64,
    /// Actions that threw.
    pub(crate) threw: u64,
}

struct Text<'c, 'b> {
    choices: &'c mut Choices<'b>,
    /// Local values, and local facts of type `B`.
    values: Vec<String>,
    lists: Vec<String>,
    facts: Vec<String>,
    named: usize,
    out: String,
}

impl Text<'_, '_> {
    fn name(&mut self, letter: char) -> String {
        self.named += 1;
        format!("{letter}{}", self.named)
    }

    fn fact(&mut self) -> String {
        let at = self.choices.below(self.facts.len() + 1);
        self.facts.get(at).cloned().unwrap_or_else(|| "b".to_owned())
    }

    fn int(&mut self, depth: usize) -> String {
        if depth == 0 || self.choices.is_empty() {
            return match self.choices.below(8) {
                0 => "a.n".into(),
                1 => format!("{}.n", self.fact()),
                2 => "c".into(),
                3 => "LIMIT".into(),
                4 => self
                    .choices
                    .one(&["0", "1", "-1", "7", "9223372036854775807", "1000"])
                    .into(),
                5 => "bs.len()".into(),
                6 => "now()".into(),
                _ if self.choices.below(8) == 0 => self.value(),
                _ => "b.n".into(),
            };
        }
        match self.choices.below(12) {
            9 => {
                let name = self.choices.one(&["twice", "times", "twice"]);
                format!("{name}({})", self.int(depth - 1))
            }
            10 => format!("larger({}, {})", self.int(depth - 1), self.int(depth - 1)),
            11 => match self.choices.below(3) {
                0 => format!("total({})", self.list(0)),
                1 => format!("turn({}).i", self.int(depth - 1)),
                _ => format!("bump({})", self.fact()),
            },
            0..=3 => {
                let operator = self
                    .choices
                    .one(&["+", "-", "+", "-", "+", "*", "/", "%", "+", "-", "+", "-", "**"]);
                format!("({} {operator} {})", self.int(depth - 1), self.int(depth - 1))
            }
            4 => format!("(-{})", self.int(depth - 1)),
            5 => format!("abs({})", self.int(depth - 1)),
            6 => format!(
                "{}({}, {})",
                self.choices.one(&["min", "max"]),
                self.int(depth - 1),
                self.int(depth - 1)
            ),
            7 => format!("{}.len()", self.text(depth - 1)),
            _ => format!(
                "(if {} {{ {} }} else {{ {} }})",
                self.truth(depth - 1),
                self.int(depth - 1),
                self.int(depth - 1)
            ),
        }
    }

    fn float(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self
                .choices
                .one(&["a.f", "0.5", "1.0", "-2.25", "1e300", "0.1", "0.0"])
                .into();
        }
        let operator = self.choices.one(&["+", "-", "*", "/", "%"]);
        let right = if self.choices.below(2) == 0 {
            self.int(depth - 1)
        } else {
            self.float(depth - 1)
        };
        format!("({} {operator} {right})", self.float(depth - 1))
    }

    fn text(&mut self, depth: usize) -> String {
        if depth == 0 || self.choices.is_empty() {
            return match self.choices.below(5) {
                0 => "a.s".into(),
                1 => format!("{}.s", self.fact()),
                2 => "WORD".into(),
                3 => self
                    .choices
                    .one(&["\"\"", "\"ä\\\"\\n\"", "\"word\"", "\"0123456789\""])
                    .into(),
                _ => "b.s".into(),
            };
        }
        match self.choices.below(7) {
            6 => format!("label({}, {})", self.any(depth - 1), self.text(depth - 1)),
            0 => format!("({} + {})", self.text(depth - 1), self.any(depth - 1)),
            1 => format!("`<${{{}}}|${{{}}}>`", self.any(depth - 1), self.text(depth - 1)),
            2 => format!("{}.to_upper()", self.text(depth - 1)),
            3 => format!("to_lower({})", self.text(depth - 1)),
            4 => format!("{}.to_string()", self.int(depth - 1)),
            _ => format!("({} + {})", self.int(depth - 1), self.text(depth - 1)),
        }
    }

    fn truth(&mut self, depth: usize) -> String {
        if depth == 0 || self.choices.is_empty() {
            return match self.choices.below(4) {
                0 => "a.b".into(),
                1 => "true".into(),
                2 => "bs.is_empty()".into(),
                _ => format!("exists({})", self.fact()),
            };
        }
        let compare = self.choices.one(&["==", "!=", "<", "<=", ">", ">="]);
        match self.choices.below(11) {
            0 => format!("({} {compare} {})", self.int(depth - 1), self.int(depth - 1)),
            1 => format!("({} {compare} {})", self.text(depth - 1), self.text(depth - 1)),
            2 => format!("({} {compare} {})", self.float(depth - 1), self.float(depth - 1)),
            3 => format!("({} {compare} {})", self.float(depth - 1), self.int(depth - 1)),
            4 => format!("({} {compare} {})", self.any(depth - 1), self.any(depth - 1)),
            5 => format!("({} && {})", self.truth(depth - 1), self.truth(depth - 1)),
            6 => format!("({} || {})", self.truth(depth - 1), self.truth(depth - 1)),
            7 => format!("!{}", self.truth(depth - 1)),
            8 => format!("{}.contains({})", self.text(depth - 1), self.text(depth - 1)),
            9 => format!("({} in {})", self.any(depth - 1), self.list(depth - 1)),
            _ => format!("({} == {})", self.fact(), self.fact()),
        }
    }

    fn list(&mut self, depth: usize) -> String {
        match self.choices.below(4) {
            0 => "a.l".into(),
            1 => self.lists.last().cloned().unwrap_or_else(|| "a.l".into()),
            2 if depth > 0 => format!(
                "[{}, {}, {}]",
                self.any(depth - 1),
                self.any(depth - 1),
                self.any(depth - 1)
            ),
            _ => "[1, 2.5, \"x\"]".into(),
        }
    }

    fn map(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.choices.one(&["#{}", "a.m", "#{ k: 1, a: \"x\" }"]).into();
        }
        format!(
            "#{{ z: {}, k: {}, b: {} }}",
            self.any(depth - 1),
            self.any(depth - 1),
            self.any(depth - 1)
        )
    }

    fn value(&mut self) -> String {
        let at = self.choices.below(self.values.len() + 2);
        self.values.get(at).cloned().unwrap_or_else(|| "a.x".to_owned())
    }

    fn any(&mut self, depth: usize) -> String {
        match self.choices.below(40) {
            0 => self.int(depth),
            1 => self.text(depth),
            2 => self.truth(depth.min(1)),
            3 => self.float(depth.min(1)),
            4 => self.list(depth),
            5 => self.map(depth),
            6 => "()".into(),
            7 => format!("a.m.{}", self.choices.one(&["k", "z", "k.a", "len"])),
            8 => format!("a.m[{}]", self.text(0)),
            9 => format!("{}[{}]", self.list(0), self.choices.one(&["0", "-1", "5", "1"])),
            10 => format!("({} ?? {})", self.value(), self.int(0)),
            11 => "a.o".into(),
            12 => match self.choices.below(4) {
                0 => format!("first({})", self.list(0)),
                1 => "nothing()".into(),
                2 => format!("even({})", self.int(0)),
                _ => format!("{}.k", self.value()),
            },
            13..20 => self.int(depth),
            20..27 => self.text(depth),
            27..30 => self.truth(depth.min(1)),
            30..33 => self.map(depth),
            _ => self.value(),
        }
    }

    fn block(&mut self, depth: usize) {
        let known = (self.values.len(), self.lists.len(), self.facts.len());
        for _ in 0..=self.choices.below(3) {
            self.statement(depth);
        }
        self.values.truncate(known.0);
        self.lists.truncate(known.1);
        self.facts.truncate(known.2);
    }

    fn say(&mut self, text: &str) {
        self.out += text;
    }

    fn statement(&mut self, depth: usize) {
        match self.choices.below(30) {
            28 => {
                let text = format!("make({});\n", self.int(1));
                self.say(&text);
            }
            29 => {
                let (name, fact) = (self.name('v'), self.fact());
                let text = format!("let {name} = bump({fact});\n");
                self.say(&text);
                self.values.push(name);
            }
            0 => {
                let text = format!("a.n = {};\n", self.int(2));
                self.say(&text);
            }
            1 => {
                let operator = self.choices.one(&["+=", "-=", "+=", "-=", "*=", "/="]);
                let text = format!("{}.n {operator} {};\n", self.fact(), self.int(1));
                self.say(&text);
            }
            2 => {
                let text = format!("{}.s += {};\n", self.fact(), self.text(1));
                self.say(&text);
            }
            3 => {
                let text = format!("a.s = {};\n", self.text(2));
                self.say(&text);
            }
            4 => {
                let text = format!("a.x = {};\n", self.any(2));
                self.say(&text);
            }
            5 => {
                let text = format!("a.f = {};\na.l = {};\n", self.float(2), self.list(2));
                self.say(&text);
            }
            6 => {
                let text = format!("a.m = {};\na.o = {};\n", self.map(2), self.int(1));
                self.say(&text);
            }
            7 | 8 => {
                let (name, value) = (self.name('v'), self.any(2));
                let text = format!("let {name} = {value};\n");
                self.say(&text);
                self.values.push(name);
            }
            9 => {
                let (name, value) = (self.name('l'), self.list(2));
                let text = format!("let {name} = {value};\n{name}.push({});\n", self.any(1));
                self.say(&text);
                self.lists.push(name);
            }
            10 => {
                let name = self.name('f');
                let text = format!(
                    "let {name} = insert(\"B\", #{{ s: {}, n: {} }});\n",
                    self.text(1),
                    self.int(1)
                );
                self.say(&text);
                self.facts.push(name);
            }
            11 => {
                let text = format!(
                    "insert(\"A\", #{{ done: true, n: {}, x: {} }});\n",
                    self.int(1),
                    self.any(2)
                );
                self.say(&text);
            }
            12 => {
                let text = match (self.facts.pop(), self.choices.below(6)) {
                    (Some(fact), _) => format!("retract({fact});\n"),
                    (None, 0) => "retract(b);\n".into(),
                    (None, _) => String::new(),
                };
                self.say(&text);
            }
            13 if depth > 0 => {
                let condition = self.truth(2);
                self.say(&format!("if {condition} {{\n"));
                self.block(depth - 1);
                if self.choices.below(2) == 0 {
                    self.say("} else {\n");
                    self.block(depth - 1);
                }
                self.say("}\n");
            }
            14 if depth > 0 => {
                let (name, list) = (self.name('e'), self.list(1));
                self.say(&format!("for {name} in {list} {{\n"));
                self.values.push(name);
                self.block(depth - 1);
                self.values.pop();
                self.say("}\n");
            }
            15 if depth > 0 => {
                let (name, count) = (self.name('i'), self.name('c'));
                let range = self.choices.one(&["0..3", "0..=2", "5..2", "-1..c", "0..a.n"]);
                self.say(&format!("for ({name}, {count}) in {range} {{\n"));
                self.values.extend([name, count]);
                self.block(depth - 1);
                let kept = self.values.len() - 2;
                self.values.truncate(kept);
                self.say("}\n");
            }
            16 if depth > 0 => {
                let name = self.name('g');
                self.say(&format!("for {name} in bs {{\n"));
                self.facts.push(name);
                self.block(depth - 1);
                self.facts.pop();
                self.say("}\n");
            }
            17 if depth > 0 => {
                let name = self.name('w');
                let condition = self.truth(1);
                self.say(&format!(
                    "let {name} = 0;\nwhile {name} < 4 && {condition} {{\n{name} += 1;\n"
                ));
                self.values.push(name);
                self.block(depth - 1);
                let leave = self
                    .choices
                    .one(&["", "break;\n", "continue;\n", "if a.b { break; }\n"]);
                self.say(leave);
                self.say("}\n");
            }
            18 => {
                let text = format!("call(\"f\", {});\n", self.map(2));
                self.say(&text);
            }
            19 => {
                let options = self.choices.one(&[
                    "timeout: \"10s\"",
                    "priority: 3",
                    "key: a.s",
                    "fail_fast: true",
                    "nice: 1",
                ]);
                let name = self.name('v');
                let text = format!("let {name} = call(\"f\", {}, #{{ {options} }});\n", self.any(2));
                self.say(&text);
                self.values.push(name);
            }
            20 => {
                let text = format!("emit(\"e\", {});\n", self.any(3));
                self.say(&text);
            }
            21 => {
                let text = format!("log({});\n", self.any(2));
                self.say(&text);
            }
            22 => {
                let text = format!(
                    "complete({});\nprogress({}, {});\n",
                    self.map(2),
                    self.float(1),
                    self.text(1)
                );
                self.say(&text);
            }
            23 => {
                let text = format!(
                    "timer({});\n",
                    self.choices.one(&[
                        "\"2h\"",
                        "500",
                        "1",
                        "#{ after: \"1s\" }",
                        "#{ at: now() }",
                        "50",
                        "a.n"
                    ])
                );
                self.say(&text);
            }
            24 => {
                let name = self.name('v');
                let text = format!("let {name} = {};\n", self.choices.one(&["random()", "uid()"]));
                self.say(&text);
                self.values.push(name);
            }
            25 => {
                let value = self.value();
                let local = self.values.last().cloned();
                let operator = self.choices.one(&["=", "+=", "-=", "*="]);
                if let Some(local) = local {
                    let text = format!("{local} {operator} {value};\n");
                    self.say(&text);
                }
            }
            26 => {
                let text = self.choices.one(&[
                    "halt();\n",
                    "return;\n",
                    "throw \"no\";\n",
                    "fail(\"why\", #{ n: a.n });\n",
                ]);
                self.say(&format!("if a.n > 9 {{ {text} }}\n"));
            }
            _ => {
                let text = format!("a.b = {};\n", self.truth(2));
                self.say(&text);
            }
        }
    }
}

fn rules(text: &str, operations: u64, native_sections: bool) -> Option<Arc<RuleSet>> {
    let source = Source {
        path: "random.rules".into(),
        text: text.into(),
    };
    let limits = Limits {
        operations,
        firings: 10,
        native_sections,
        ..Limits::default()
    };
    let environment = Environment {
        functions: ["f".to_owned()].into(),
        limits,
    };
    compile(&source, &environment).ok().map(|compiled| compiled.rules)
}

fn insert(fact_type: &str, value: Value) -> Event {
    Event::Insert {
        fact_type: fact_type.into(),
        value,
    }
}

/// The events of the turns: facts first, then answers to calls.
fn turns(rules: &Arc<RuleSet>, choices: &mut Choices<'_>) -> (Vec<Outcome>, Vec<u8>) {
    let mut memory = WorkingMemory::new(rules, RunId::from_bits(5));
    let any = |at: usize| match at {
        0 => Value::from(2_i64),
        1 => Value::from(0.1),
        2 => Value::from("text"),
        3 => Value::list([Value::from(1_i64), Value::from(0.5)]),
        4 => Value::map([("k", Value::from(4_i64)), ("$artifact", Value::from("sha256:00"))]),
        5 => Value::from(true),
        _ => Value::Null,
    };
    let n = i64::try_from(choices.below(6)).unwrap_or(0);
    let fact = Value::map([
        ("n", Value::from(n)),
        ("x", any(choices.below(7))),
        ("l", Value::list([any(choices.below(7)), any(choices.below(7))])),
        ("m", Value::map([("k", any(choices.below(7)))])),
        ("b", (choices.below(2) == 0).into()),
    ]);
    let events = vec![
        insert(
            "B",
            Value::map([("n", Value::from(1_i64)), ("s", Value::from("b"))]),
        ),
        insert(
            "B",
            Value::map([("n", Value::from(2_i64)), ("s", Value::from(""))]),
        ),
        insert("A", fact),
    ];
    let first = memory.turn(Turn {
        seq: 1,
        now_ms: 1_000,
        events,
    });
    let mut answers = Vec::new();
    for effect in &first.effects {
        let (Effect::Call { call, .. } | Effect::Request { call, .. } | Effect::Timer { call, .. }) = effect
        else {
            continue;
        };
        answers.push(match choices.below(4) {
            0 => {
                let error = CallError {
                    kind: ErrorClass::User,
                    message: "broken".into(),
                    function: "f".into(),
                    attempts: 1,
                };
                Event::CallFailed { call: *call, error }
            }
            at => Event::CallSucceeded {
                call: *call,
                result: any(at + 1),
            },
        });
    }
    let mut outcomes = vec![first];
    if outcomes[0].fault.is_none() {
        outcomes.push(memory.turn(Turn {
            seq: 2,
            now_ms: 2_000,
            events: answers,
        }));
    }
    let state = memory.snapshot();
    (outcomes, state)
}

/// Makes a rule of the bytes and runs it both ways.
///
/// # Panics
/// The two ways differ.
pub(crate) fn check(bytes: &[u8], tally: &mut Tally) {
    let mut choices = Choices::new(bytes);
    let operations = [20_000, 20_000, 20_000, 60, 200][choices.below(5)];
    let mut sections = Vec::new();
    for facts in [0, 1, 1] {
        let mut text = Text {
            choices: &mut choices,
            values: if facts == 0 { vec![] } else { vec!["r".into()] },
            lists: vec![],
            facts: vec![],
            named: 0,
            out: String::new(),
        };
        text.block(2);
        text.block(1);
        sections.push(text.out);
    }
    let mut text = FACTS.to_owned();
    write!(
        text,
        "rule \"r\" {{ match {{ a: A where !a.done; b: B; bs = collect B; c = count B; }}
action {{\n{}a.done = true;\n}}\nreaction {{\nlet r = result;\n{}}}\nerror {{\nlet r = results;\n{}log(error.message);\n}}\n}}\n",
        sections[0],
        sections[1].replace("call(\"f\"", "emit(\"f\"").replace("timer(", "log("),
        sections[2].replace("call(\"f\"", "emit(\"f\"").replace("timer(", "log(")
    )
    .expect("a string takes everything");
    let (Some(native), Some(script)) = (rules(&text, operations, true), rules(&text, operations, false))
    else {
        return;
    };
    tally.compiled += 1;
    tally.native += u64::from(native.rules()[0].is_native(Section::Action));
    let mut again = Choices::new(bytes);
    let (one, one_state) = turns(&native, &mut again);
    let mut again = Choices::new(bytes);
    let (other, other_state) = turns(&script, &mut again);
    tally.threw += u64::from(one[0].firings.iter().any(|firing| firing.error.is_some()));
    for (one, other) in one.iter().zip(&other) {
        // As text: a number that is none does not equal itself.
        assert_eq!(
            format!("{:?}", one.effects),
            format!("{:?}", other.effects),
            "effects of\n{text}"
        );
        assert_eq!(one.firings, other.firings, "firings of\n{text}");
        assert_eq!(one.changes, other.changes, "changes of\n{text}");
        assert_eq!(one.fault, other.fault, "faults of\n{text}");
        assert_eq!(one.delta, other.delta, "deltas of\n{text}");
    }
    assert_eq!(one.len(), other.len());
    assert_eq!(one_state, other_state, "states of\n{text}");
}
