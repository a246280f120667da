//! Taking a run's memory over to other rules: which facts are called otherwise, what new fields hold, what is dropped;
//! and what a change of fact types would break.
//!
//! Nothing here fires. What cannot be taken over is an error, and the memory stays as it was.

use rhai::Dynamic;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};

use crate::Value;
use crate::ruleset::{FactType, FieldKind, RuleSet};
use crate::scripts::{ENTRY, Script};

/// What becomes of the facts of one type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FactMove {
    /// The type's name in the rules before.
    pub fact: String,
    /// Its name from now on, when it is another.
    pub to: Option<String>,
    /// Its facts are dropped.
    pub dropped: bool,
    /// Fields that are called otherwise: the old name and the new one.
    pub renamed: BTreeMap<String, String>,
    /// What fields hold where a fact has nothing that fits.
    pub given: BTreeMap<String, Value>,
    /// The same, as expressions of `old`, the fact as it was.
    pub computed: BTreeMap<String, String>,
}

/// A declaration that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveMistake {
    /// The fact type it is about, as declared.
    pub fact: String,
    /// The field, when it is about one.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// What a change of fact types would break, and what would mend it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Break {
    /// The fact type in the rules before.
    pub fact: String,
    /// The field, when one is concerned.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to write.
    pub hint: String,
}

/// What becomes of a run's facts, checked against the rules they are taken over to.
#[derive(Debug, Default)]
pub struct FactMoves(FxHashMap<String, Move>);

#[derive(Debug, Default)]
struct Move {
    to: String,
    dropped: bool,
    renamed: BTreeMap<String, String>,
    given: BTreeMap<String, Value>,
    computed: Vec<(String, Script)>,
}

impl FactMoves {
    /// Checks the declarations against the rules they lead to.
    ///
    /// # Errors
    /// Every declaration that names what the rules do not have, or whose expression is none.
    pub fn compile(rules: &RuleSet, declared: &[FactMove]) -> Result<Self, Vec<MoveMistake>> {
        let mut moves = FxHashMap::default();
        let mut mistakes = Vec::new();
        for one in declared {
            let mut mistake = |field: Option<&str>, message: String| {
                mistakes.push(MoveMistake {
                    fact: one.fact.clone(),
                    field: field.map(str::to_owned),
                    message,
                });
            };
            let to = one.to.as_ref().unwrap_or(&one.fact);
            let fact_type = rules.type_index.get(to.as_str()).map(|kind| &rules.types[*kind]);
            if let (None, false) = (fact_type, one.dropped) {
                mistake(None, format!("the rules have no fact type `{to}`"));
                continue;
            }
            let mut computed = Vec::new();
            if let Some(fact_type) = fact_type {
                let fields = (one.renamed.values())
                    .chain(one.given.keys())
                    .chain(one.computed.keys());
                for field in fields.filter(|field| fact_type.slot(field).is_none()) {
                    mistake(
                        Some(field.as_str()),
                        format!("fact `{to}` has no field `{field}`"),
                    );
                }
                for (field, value) in &one.given {
                    let slot = fact_type.slot(field);
                    if let Some(Err(why)) = slot.map(|slot| fact_type.fields[slot].checked(value.clone())) {
                        mistake(Some(field.as_str()), why);
                    }
                }
            }
            for (field, expression) in &one.computed {
                match expression_of(rules, expression) {
                    Ok(script) => computed.push((field.clone(), script)),
                    Err(why) => mistake(Some(field.as_str()), format!("`{expression}`: {why}")),
                }
            }
            let made = Move {
                to: to.clone(),
                dropped: one.dropped,
                renamed: one.renamed.clone(),
                given: one.given.clone(),
                computed,
            };
            if moves.insert(one.fact.clone(), made).is_some() {
                mistake(None, "it is declared twice".to_owned());
            }
        }
        if mistakes.is_empty() {
            Ok(Self(moves))
        } else {
            Err(mistakes)
        }
    }

    /// What stored facts of `old` rules would lose or could not hold under `new` ones.
    #[must_use]
    pub fn breaks(&self, old: &RuleSet, new: &RuleSet) -> Vec<Break> {
        let mut found = Vec::new();
        for before in &old.types {
            let name = before.name.to_string();
            let declared = self.0.get(&name);
            if declared.is_some_and(|one| one.dropped) {
                continue;
            }
            let to = declared.map_or(&*before.name, |one| one.to.as_str());
            let Some(after) = new.type_index.get(to).map(|kind| &new.types[*kind]) else {
                found.push(Break {
                    message: format!("fact type `{name}` is gone"),
                    hint: "say what it is called now (`to = \"…\"`), or that its facts go (`drop = true`)"
                        .into(),
                    fact: name,
                    field: None,
                });
                continue;
            };
            found.extend(broken_fields(before, after, declared));
        }
        found
    }

    /// Whether nothing is declared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of a type from now on; none when its facts are dropped.
    pub(crate) fn type_name<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        match self.0.get(name) {
            Some(one) if one.dropped => None,
            Some(one) => Some(one.to.as_str()),
            None => Some(name),
        }
    }

    /// The slots of a stored fact under the rules it is taken over to: for each field what it holds, and which stored
    /// field it comes from.
    pub(crate) fn slots(
        &self,
        rules: &RuleSet,
        fact_type: &FactType,
        name: &str,
        stored: &[(String, Value)],
    ) -> Result<Vec<(Value, Option<usize>)>, String> {
        let none = Move::default();
        let declared = self.0.get(name).unwrap_or(&none);
        let mut slots: Vec<Option<(Value, Option<usize>)>> = vec![None; fact_type.fields.len()];
        for (at, (field, value)) in stored.iter().enumerate() {
            let field = declared.renamed.get(field).unwrap_or(field);
            if let Some(slot) = fact_type.slot(field) {
                slots[slot] = Some((value.clone(), Some(at)));
            }
        }
        // What fits is kept: the run may come from a version that had the field already.
        let lacks = |slots: &[Option<(Value, Option<usize>)>], field: &str| {
            let slot = fact_type.slot(field)?;
            let fits =
                |(value, _): &(Value, Option<usize>)| fact_type.fields[slot].checked(value.clone()).is_ok();
            (!slots[slot].as_ref().is_some_and(fits)).then_some(slot)
        };
        for (field, value) in &declared.given {
            if let Some(slot) = lacks(&slots, field) {
                slots[slot] = Some((value.clone(), None));
            }
        }
        for (field, script) in &declared.computed {
            let Some(slot) = lacks(&slots, field) else {
                continue;
            };
            let old = Value::map(
                stored
                    .iter()
                    .map(|(field, value)| (field.as_str(), value.clone())),
            );
            let arguments: Vec<Dynamic> = vec![old.to_dynamic()];
            let value = rules.scripts.evaluate(script, arguments);
            let value = value.map_err(|why| format!("field `{field}` cannot be computed: {why}"))?;
            slots[slot] = Some((value, None));
        }
        let fields = fact_type.fields.iter().zip(slots);
        fields
            .map(|(field, held)| match held {
                Some((value, from)) => Ok((field.checked(value)?, from)),
                None => match &field.default {
                    Some(value) => Ok((value.clone(), None)),
                    None if field.optional || field.kind == FieldKind::Any => Ok((Value::Null, None)),
                    None => Err(format!("field `{}` is new and has no default", field.name)),
                },
            })
            .collect()
    }
}

/// An expression of `old` as a script.
fn expression_of(rules: &RuleSet, text: &str) -> Result<Script, String> {
    let engine = &rules.scripts.engine;
    engine
        .compile_expression(text)
        .map_err(|error| error.to_string())?;
    let ast = (engine.compile(format!("fn {ENTRY}(old) {{ {text} }}"))).map_err(|error| error.to_string())?;
    Ok(Script {
        ast,
        arguments: Vec::new(),
        steps: None,
    })
}

fn broken_fields(before: &FactType, after: &FactType, declared: Option<&Move>) -> Vec<Break> {
    let none = Move::default();
    let declared = declared.unwrap_or(&none);
    let computed: BTreeSet<&String> = declared.computed.iter().map(|(field, _)| field).collect();
    let set =
        |field: &str| declared.given.contains_key(field) || computed.iter().any(|known| *known == field);
    let mut found = Vec::new();
    for field in &after.fields {
        let name = field.name.to_string();
        if set(&name) {
            continue;
        }
        let was = before.fields.iter().find(|was| {
            let called = declared
                .renamed
                .get(&*was.name)
                .map_or(&*was.name, String::as_str);
            called == &*field.name
        });
        let wrong = match was {
            None if field.default.is_none() && !field.optional && field.kind != FieldKind::Any => Some((
                format!("field `{name}` of `{}` is new and has no default", after.name),
                format!(
                    "give it one (`{name}: {kind} = …`), make it optional (`{name}: {kind}?`), say what it was called \
                     (`rename = {{ … = \"{name}\" }}`), or what it holds (`set = {{ {name} = … }}`)",
                    kind = field.kind.name()
                ),
            )),
            Some(was) if was.optional && !field.optional && field.kind != FieldKind::Any => Some((
                format!("field `{name}` of `{}` may be null in stored facts", after.name),
                format!(
                    "keep the `?`, or say what it holds then (`script = {{ {name} = \"old.{} ?? …\" }}`)",
                    was.name
                ),
            )),
            Some(was) if !fits(was.kind, field.kind) => Some((
                format!(
                    "field `{name}` of `{}` holds {}, stored facts have {}",
                    after.name,
                    field.kind.name(),
                    was.kind.name()
                ),
                format!(
                    "say how one is made of the other (`script = {{ {name} = \"… old.{} …\" }}`), or what it holds \
                     (`set = {{ {name} = … }}`)",
                    was.name
                ),
            )),
            _ => None,
        };
        if let Some((message, hint)) = wrong {
            found.push(Break {
                fact: before.name.to_string(),
                field: Some(name),
                message,
                hint,
            });
        }
    }
    found
}

/// Whether every value of one kind goes into a field of another.
fn fits(from: FieldKind, to: FieldKind) -> bool {
    use FieldKind::{Any, Artifact, Float, Int, Map, Time};
    from == to
        || matches!(
            (from, to),
            (_, Any) | (Int | Time, Int | Time | Float) | (Artifact, Map)
        )
}
