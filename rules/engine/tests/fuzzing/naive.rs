//! A naive engine that recomputes every match after every change, and the programs it understands.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use celesta_engine::FactId;

/// A clause on the facts `A { x, y, z }` of the run or the shared facts `B` of the same fields; the fields hold 0 to 2.
#[derive(Debug, Clone)]
pub(crate) enum Clause {
    Bind(Test),
    No(Test),
    Any(Test),
    Count(Test),
    Sum(Test),
    Min(Test),
    Max(Test),
    Collect(Test),
    AtLeast(i64),
    /// So many seconds after the field of an earlier fact.
    After(usize, usize, i64),
    /// Every so many seconds.
    Every(i64),
}

/// A test of the clause's own fact: field, operator, and a number or the field of an earlier fact; and whether the fact
/// is a shared one.
#[derive(Debug, Clone)]
pub(crate) struct Test(pub(crate) Vec<(usize, usize, Side)>, pub(crate) bool);

/// What a field is compared with.
#[derive(Debug, Clone)]
pub(crate) enum Side {
    Number(i64),
    Earlier(usize, usize),
    /// The field of an earlier fact and one more.
    Above(usize, usize),
    /// The field of an earlier fact; the own one counts one less.
    Below(usize, usize),
    /// A number that is compared with the difference of the own field and that of an earlier fact.
    Apart(usize, usize, i64),
    /// The same, whichever is greater.
    Near(usize, usize, i64),
    /// The same, the earlier fact first.
    Behind(usize, usize, i64),
}

/// The instant of a run's first turn.
pub(crate) const BORN_MS: i64 = 700;

/// The fields of `A`.
pub(crate) const FIELDS: [&str; 3] = ["x", "y", "z"];
const OPERATORS: [&str; 6] = ["==", "!=", "<", ">=", "<=", ">"];

impl Test {
    const fn fact_type(&self) -> &'static str {
        if self.1 { "shared B" } else { "A" }
    }

    fn text(&self, own: &str, earlier: &[String]) -> String {
        let part = |(field, operator, side): &(usize, usize, Side)| {
            let own = format!("{own}.{}", FIELDS[*field]);
            let other =
                |at: usize, field: usize| format!("{}.{}", earlier[at % earlier.len()], FIELDS[field]);
            let (left, right) = match *side {
                Side::Number(number) => (own, number.to_string()),
                _ if earlier.is_empty() => (own, "1".into()),
                Side::Earlier(at, field) => (own, other(at, field)),
                Side::Above(at, field) => (own, format!("{} + 1", other(at, field))),
                Side::Below(at, field) => (format!("{own} - 1"), other(at, field)),
                Side::Apart(at, field, by) => (format!("{own} - {}", other(at, field)), by.to_string()),
                Side::Near(at, field, by) => (format!("abs({own} - {})", other(at, field)), by.to_string()),
                Side::Behind(at, field, by) => (format!("{} - {own}", other(at, field)), by.to_string()),
            };
            format!("{left} {} {right}", OPERATORS[*operator])
        };
        if self.0.is_empty() {
            String::new()
        } else {
            format!(
                " where {}",
                self.0.iter().map(part).collect::<Vec<_>>().join(" && ")
            )
        }
    }

    fn holds(&self, own: &Fact, earlier: &[Fact]) -> bool {
        self.0.iter().all(|(field, operator, side)| {
            let own = own.fields[*field];
            let other = |at: usize, field: usize| earlier[at % earlier.len()].fields[field];
            let (left, right) = match *side {
                Side::Number(number) => (own, number),
                _ if earlier.is_empty() => (own, 1),
                Side::Earlier(at, field) => (own, other(at, field)),
                Side::Above(at, field) => (own, other(at, field) + 1),
                Side::Below(at, field) => (own - 1, other(at, field)),
                Side::Apart(at, field, by) => (own - other(at, field), by),
                Side::Near(at, field, by) => ((own - other(at, field)).abs(), by),
                Side::Behind(at, field, by) => (other(at, field) - own, by),
            };
            match operator {
                0 => left == right,
                1 => left != right,
                2 => left < right,
                3 => left >= right,
                4 => left <= right,
                _ => left > right,
            }
        })
    }
}

/// A fact of the naive engine.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub(crate) id: u64,
    pub(crate) fields: [i64; 3],
}

/// Makes many changes in one section: `[0, x, y, z]` inserts, `[1, fact, field, value]` writes, `[2, fact]` retracts.
const BATCH: &str = r#"fact Batch { changes: list }
rule "batch" salience 100 {
    match { batch: Batch; facts = collect A a; }
    action {
        for change in batch.changes {
            if change[0] == 0 {
                insert("A", #{ x: change[1], y: change[2], z: change[3] });
            } else if change[0] == 2 {
                retract(facts[change[1]]);
            } else if change[2] == 0 {
                facts[change[1]].x = change[3];
            } else if change[2] == 1 {
                facts[change[1]].y = change[3];
            } else {
                facts[change[1]].z = change[3];
            }
        }
        retract(batch);
    }
}
"#;

/// The text of the rules, behind the rule that makes changes.
pub(crate) fn program(rules: &[(i32, Vec<Clause>)]) -> String {
    let mut text = "workflow w;\nfact A { x: int, y: int, z: int }\n".to_owned();
    text += "shared fact B { x: int, y: int, z: int }\n";
    text += BATCH;
    for (number, (salience, clauses)) in rules.iter().enumerate() {
        let mut names: Vec<String> = Vec::new();
        let mut last_value = None;
        write!(text, "rule \"r{number}\" salience {salience} {{ match {{ ").expect("writing to a string");
        for (at, clause) in clauses.iter().enumerate() {
            let inner = |word: &str, test: &Test| {
                format!(
                    "v{at} = {word} {} c{at}{}",
                    test.fact_type(),
                    test.text(&format!("c{at}"), &names)
                )
            };
            let measured = |word: &str, test: &Test| inner(&format!("{word} c{at}.z of"), test);
            let clause = match clause {
                Clause::Bind(test) => {
                    let name = format!("b{at}");
                    let clause = format!("{name}: {}{}", test.fact_type(), test.text(&name, &names));
                    names.push(name);
                    clause
                }
                Clause::No(test) => {
                    let word = test.fact_type();
                    format!("no {word} c{at}{}", test.text(&format!("c{at}"), &names))
                }
                Clause::Any(test) => {
                    let word = test.fact_type();
                    format!("any {word} c{at}{}", test.text(&format!("c{at}"), &names))
                }
                Clause::Count(test) => inner("count", test),
                Clause::Collect(test) => inner("collect", test),
                Clause::Sum(test) => measured("sum", test),
                Clause::Min(test) => measured("min", test),
                Clause::Max(test) => measured("max", test),
                Clause::AtLeast(number) => match &last_value {
                    Some((value, true)) => format!("if {value}.len() >= {number}"),
                    Some((value, false)) => format!("if {value} != () && {value} >= {number}"),
                    None => format!("if {number} >= 0"),
                },
                Clause::After(fact, field, seconds) => {
                    let fact = &names[fact % names.len()];
                    format!("if after({fact}.{}, \"{seconds}s\")", FIELDS[*field])
                }
                Clause::Every(seconds) => format!("if every(\"{seconds}s\")"),
            };
            match &clauses[at] {
                Clause::Collect(_) => last_value = Some((format!("v{at}"), true)),
                Clause::Count(_) | Clause::Sum(_) | Clause::Min(_) | Clause::Max(_) => {
                    last_value = Some((format!("v{at}"), false));
                }
                _ => {}
            }
            text += &clause;
            text += "; ";
        }
        let reads: Vec<String> = names
            .iter()
            .map(|name| format!("[{name}.x, {name}.y, {name}.z]"))
            .collect();
        let values: Vec<String> = (clauses.iter().enumerate())
            .filter(|(_, clause)| {
                matches!(
                    clause,
                    Clause::Count(_) | Clause::Sum(_) | Clause::Min(_) | Clause::Max(_)
                )
            })
            .map(|(at, _)| format!("v{at}"))
            .collect();
        let lists: Vec<String> = (clauses.iter().enumerate())
            .filter(|(_, clause)| matches!(clause, Clause::Collect(_)))
            .map(|(at, _)| format!("v{at}.map(|c| [c.x, c.y, c.z])"))
            .collect();
        let all = [reads, values, lists].concat().join(", ");
        writeln!(
            text,
            "}} action {{ emit(\"r{number}\", #{{ saw: [{all}] }}); }} }}"
        )
        .expect("writing to a string");
    }
    text
}

/// One match: the facts bound, and what the action would say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Match {
    facts: Vec<u64>,
    /// What the rule sees, and for collections the changes of their facts.
    saw: String,
    /// Whatever tells it from the match before; for refraction.
    identity: String,
    /// When its facts changed, the newest first.
    stamps: Vec<u64>,
}

/// An engine that recomputes every match after every change.
pub(crate) struct Naive {
    pub(crate) rules: Vec<(i32, Vec<Clause>)>,
    pub(crate) facts: Vec<(Fact, u64)>,
    /// The shared facts as the run has seen them, with the change of each.
    pub(crate) shared: Vec<(Fact, u64)>,
    pub(crate) clock: u64,
    pub(crate) now_ms: i64,
    pub(crate) next: u64,
    pub(crate) fired: BTreeSet<(usize, Vec<u64>, String)>,
}

impl Naive {
    fn matches(&self, rule: usize) -> Vec<Match> {
        let mut found = Vec::new();
        self.extend(rule, 0, &mut Vec::new(), &mut Vec::new(), &mut found);
        found
    }

    fn extend(
        &self,
        rule: usize,
        at: usize,
        bound: &mut Vec<(Fact, u64)>,
        values: &mut Vec<(Option<i64>, String, bool)>,
        found: &mut Vec<Match>,
    ) {
        let Some(clause) = self.rules[rule].1.get(at) else {
            let show = |fact: &Fact| format!("[{},{},{}]", fact.fields[0], fact.fields[1], fact.fields[2]);
            let text = |value: &Option<i64>| value.map_or("null".to_owned(), |number| number.to_string());
            let facts = bound.iter().map(|(fact, _)| show(fact));
            let numbers = values
                .iter()
                .filter(|(_, _, list)| !list)
                .map(|(value, ..)| text(value));
            let lists = values
                .iter()
                .filter(|(_, _, list)| *list)
                .map(|(_, identity, _)| identity.split('|').next().unwrap_or("").to_owned());
            let saw = format!(
                "{{\"saw\":[{}]}}",
                facts.chain(numbers).chain(lists).collect::<Vec<_>>().join(",")
            );
            let written: Vec<String> = bound.iter().map(|(_, stamp)| stamp.to_string()).collect();
            // Shared facts are equally old to a run.
            let stamp = |(fact, stamp): &(Fact, u64)| if fact.id < FactId::shared(0).0 { *stamp } else { 0 };
            let mut stamps: Vec<u64> = bound.iter().map(stamp).collect();
            stamps.sort_unstable_by(|a, b| b.cmp(a));
            let identities: Vec<&str> = values.iter().map(|(_, identity, _)| identity.as_str()).collect();
            found.push(Match {
                facts: bound.iter().map(|(fact, _)| fact.id).collect(),
                saw,
                identity: format!(
                    "{}/{}/{:?}",
                    written.join(","),
                    identities.join("/"),
                    self.periods(rule)
                ),
                stamps,
            });
            return;
        };
        let earlier: Vec<Fact> = bound.iter().map(|(fact, _)| fact.clone()).collect();
        let matching = |test: &Test| -> Vec<&(Fact, u64)> {
            let facts = if test.1 { &self.shared } else { &self.facts };
            facts
                .iter()
                .filter(|(fact, _)| test.holds(fact, &earlier))
                .collect()
        };
        let z = |test: &Test| {
            matching(test)
                .iter()
                .map(|(fact, _)| fact.fields[2])
                .collect::<Vec<i64>>()
        };
        let value = match clause {
            Clause::Bind(test) => {
                for fact in matching(test) {
                    bound.push(fact.clone());
                    self.extend(rule, at + 1, bound, values, found);
                    bound.pop();
                }
                return;
            }
            Clause::No(test) => {
                if matching(test).is_empty() {
                    self.extend(rule, at + 1, bound, values, found);
                }
                return;
            }
            Clause::Any(test) => {
                if !matching(test).is_empty() {
                    self.extend(rule, at + 1, bound, values, found);
                }
                return;
            }
            Clause::AtLeast(number) => {
                let passes = match values.last() {
                    Some((value, ..)) => value.is_some_and(|value| value >= *number),
                    None => *number >= 0,
                };
                if passes {
                    self.extend(rule, at + 1, bound, values, found);
                }
                return;
            }
            Clause::After(fact, field, seconds) => {
                if earlier[fact % earlier.len()].fields[*field] + seconds * 1_000 <= self.now_ms {
                    self.extend(rule, at + 1, bound, values, found);
                }
                return;
            }
            // Nothing that is seen, but another activation in each period.
            Clause::Every(_) => {
                self.extend(rule, at + 1, bound, values, found);
                return;
            }
            Clause::Count(test) => Some(i64::try_from(matching(test).len()).expect("few facts")),
            Clause::Sum(test) => Some(z(test).iter().sum()),
            Clause::Min(test) => z(test).into_iter().min(),
            Clause::Max(test) => z(test).into_iter().max(),
            Clause::Collect(test) => {
                let facts = matching(test);
                let shown: Vec<String> = facts
                    .iter()
                    .map(|(fact, _)| format!("[{},{},{}]", fact.fields[0], fact.fields[1], fact.fields[2]))
                    .collect();
                let stamps: Vec<String> = facts
                    .iter()
                    .map(|(fact, stamp)| format!("{}@{stamp}", fact.id))
                    .collect();
                let length = i64::try_from(facts.len()).expect("few facts");
                values.push((
                    Some(length),
                    format!("[{}]|{}", shown.join(","), stamps.join(",")),
                    true,
                ));
                self.extend(rule, at + 1, bound, values, found);
                values.pop();
                return;
            }
        };
        values.push((value, format!("{value:?}"), false));
        self.extend(rule, at + 1, bound, values, found);
        values.pop();
    }

    /// Which periods of the rule it is.
    fn periods(&self, rule: usize) -> Vec<i64> {
        let period = |clause: &Clause| match clause {
            Clause::Every(seconds) => Some((self.now_ms - BORN_MS) / (seconds * 1_000)),
            _ => None,
        };
        self.rules[rule].1.iter().filter_map(period).collect()
    }

    /// After every change: activations that match no more lose their mark.
    pub(crate) fn prune(&mut self) {
        let mut now = BTreeSet::new();
        for rule in 0..self.rules.len() {
            now.extend(
                self.matches(rule)
                    .into_iter()
                    .map(|found| (rule, found.facts, found.identity)),
            );
        }
        self.fired.retain(|fired| now.contains(fired));
    }

    /// What fires now, in order.
    pub(crate) fn fire(&mut self) -> Vec<(usize, Vec<u64>, String)> {
        let mut agenda = Vec::new();
        for rule in 0..self.rules.len() {
            for found in self.matches(rule) {
                let mark = (rule, found.facts.clone(), found.identity.clone());
                if self.fired.insert(mark) {
                    let order = (
                        -self.rules[rule].0,
                        Reverse(found.stamps.first().copied().unwrap_or(0)),
                        rule,
                        Reverse(found.stamps),
                        found.facts.clone(),
                    );
                    agenda.push((order, found.saw));
                }
            }
        }
        agenda.sort();
        agenda
            .into_iter()
            .map(|((_, _, rule, _, facts), saw)| (rule, facts, saw))
            .collect()
    }
}
