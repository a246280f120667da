//! A compiled rules file: fact types, rules, and the network's nodes, shared by every run. It holds no state of a run.

pub(crate) mod interest;
pub(crate) mod plan;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::Value;
use crate::compile::uses::RuleUses;
use crate::expression::Expr;
use crate::limits::Limits;
use crate::scripts::{Script, Scripts};
use crate::turn::Section;

/// The most fields of a fact type: which fields a rule reads is a set of 64 bits, one of them spare.
pub const FIELDS_MAX: usize = 63;

/// What a field may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldKind {
    /// Text.
    String,
    /// A whole number of 64 bits.
    Int,
    /// A number with a fraction; a whole number is taken too.
    Float,
    /// True or false.
    Bool,
    /// An artifact reference.
    Artifact,
    /// A list.
    List,
    /// A map.
    Map,
    /// An instant in milliseconds since the Unix epoch.
    Time,
    /// Anything.
    Any,
}

impl FieldKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::String,
        Self::Int,
        Self::Float,
        Self::Bool,
        Self::Artifact,
        Self::List,
        Self::Map,
        Self::Time,
        Self::Any,
    ];

    /// The word in the language.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::Artifact => "artifact",
            Self::List => "list",
            Self::Map => "map",
            Self::Time => "time",
            Self::Any => "any",
        }
    }

    /// Whether a field of this kind may hold `value`.
    #[must_use]
    pub fn admits(self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::String => matches!(value, Value::Str(_)),
            Self::Int | Self::Time => matches!(value, Value::Int(_)),
            Self::Float => matches!(value, Value::Float(_) | Value::Int(_)),
            Self::Bool => matches!(value, Value::Bool(_)),
            Self::Artifact => value.is_artifact(),
            Self::List => matches!(value, Value::List(_)),
            Self::Map => matches!(value, Value::Map(_)),
        }
    }
}

/// A field of a fact type.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name.
    pub name: Arc<str>,
    /// What it holds.
    pub kind: FieldKind,
    /// Whether it may be null.
    pub optional: bool,
    /// What it holds when it is not given.
    pub default: Option<Value>,
}

impl Field {
    /// The value as the field keeps it, or why it cannot.
    pub(crate) fn checked(&self, value: Value) -> Result<Value, String> {
        if value.is_null() && (self.optional || self.kind == FieldKind::Any) {
            return Ok(value);
        }
        if !self.kind.admits(&value) {
            let or_null = if self.optional { " or null" } else { "" };
            return Err(format!(
                "field `{}` holds {}{or_null}, not {}",
                self.name,
                self.kind.name(),
                value.kind_name()
            ));
        }
        match (self.kind, &value) {
            (FieldKind::Float, Value::Int(number)) => Ok(Value::Float(crate::value::to_float(*number))),
            _ => Ok(value),
        }
    }
}

/// A fact type.
#[derive(Debug, Clone)]
pub struct FactType {
    /// Its name.
    pub name: Arc<str>,
    /// Its fields, in the order of the file.
    pub fields: Vec<Field>,
    /// Whether its facts belong to the service and not to a run.
    pub shared: bool,
}

impl FactType {
    /// The place of the field `name`.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| &*field.name == name)
    }

    /// The slots of a new fact from its fields, checked.
    pub(crate) fn slots(&self, value: &Value) -> Result<Box<[Value]>, String> {
        let Value::Map(map) = value else {
            return Err(format!(
                "a fact `{}` is made of a map, not of {}",
                self.name,
                value.kind_name()
            ));
        };
        let mut known = 0;
        let slots = (self.fields.iter())
            .map(|field| match map.get(&field.name) {
                Some(given) => {
                    known += 1;
                    field
                        .checked(given.clone())
                        .map_err(|why| format!("fact `{}`: {why}", self.name))
                }
                None if field.default.is_some() => Ok(field.default.clone().unwrap_or_default()),
                None if field.optional => Ok(Value::Null),
                None => Err(format!("fact `{}` lacks the field `{}`", self.name, field.name)),
            })
            .collect::<Result<Box<[Value]>, String>>()?;
        if known < map.len()
            && let Some((unknown, _)) = map.iter().find(|(name, _)| self.slot(name).is_none())
        {
            return Err(format!("fact `{}` has no field `{unknown}`", self.name));
        }
        Ok(slots)
    }
}

/// What stands in a clause of `match`, for the network.
#[derive(Debug)]
pub(crate) struct Node {
    pub rule: u32,
    /// Its place within the rule.
    pub level: u32,
    pub kind: NodeKind,
    pub fact_type: Option<usize>,
    /// Tests of the fact alone.
    pub alpha: Vec<Test>,
    /// Equal parts: what the earlier clauses say, and the slot of this fact.
    pub keys: Vec<(Expr, usize)>,
    /// The other tests.
    pub join: Vec<Test>,
    /// The slots whose change matters.
    pub reads: u64,
    pub measure: Option<Expr>,
    pub order: Option<Expr>,
    /// Conditions on the time.
    pub timed: Vec<Timed>,
    pub last: bool,
    /// The clause as written.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeKind {
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

/// One part of a condition, parts being joined by `&&`.
#[derive(Debug, Clone)]
pub(crate) struct Test {
    pub expr: Expr,
    pub text: String,
}

/// A condition on the time.
#[derive(Debug, Clone)]
pub(crate) struct Timed {
    /// The instant it counts from; without one it is true, and new again after every span.
    pub since: Option<Expr>,
    pub span_ms: i64,
    pub text: String,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    pub(crate) name: Arc<str>,
    pub(crate) salience: i32,
    pub(crate) line: usize,
    pub(crate) fingerprint: u64,
    /// What an open firing of it relies on: the kinds and names of its clauses.
    pub(crate) layout: u64,
    /// Its nodes in the network.
    pub(crate) first: u32,
    pub(crate) nodes: u32,
    pub(crate) sections: [Option<Script>; 3],
    /// Levels of the bound facts.
    pub(crate) bound: Vec<u32>,
}

impl Rule {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says, as a number: another clause, section, constant or function of the file makes it another rule to
    /// the runs under way; another layout or comment does not.
    #[must_use]
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Its salience.
    #[must_use]
    pub const fn salience(&self) -> i32 {
        self.salience
    }

    /// The line of its name.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    /// Whether it has this section.
    #[must_use]
    pub fn has(&self, section: Section) -> bool {
        self.script(section).is_some()
    }

    /// Whether this section runs in native form; otherwise the script engine runs it.
    #[must_use]
    pub fn is_native(&self, section: Section) -> bool {
        self.script(section).is_some_and(|script| script.steps.is_some())
    }

    pub(crate) const fn script(&self, section: Section) -> Option<&Script> {
        match section {
            Section::Action => self.sections[0].as_ref(),
            Section::Reaction => self.sections[1].as_ref(),
            Section::Error => self.sections[2].as_ref(),
        }
    }
}

/// A compiled rules file.
pub struct RuleSet {
    pub(crate) path: String,
    pub(crate) workflow: String,
    pub(crate) types: Vec<FactType>,
    pub(crate) type_index: FxHashMap<Arc<str>, usize>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) plan: plan::Plan,
    pub(crate) functions: BTreeSet<String>,
    pub(crate) limits: Limits,
    pub(crate) scripts: Scripts,
    /// What stored states say they were written with.
    pub(crate) schema: Arc<[u8]>,
    /// What each rule reads and writes.
    pub(crate) uses: Vec<RuleUses>,
    /// The clauses on shared facts, and the shapes of their keys.
    pub(crate) interests: Vec<interest::Interest>,
    pub(crate) shapes: Vec<interest::Shape>,
}

impl RuleSet {
    /// The workflow's name.
    #[must_use]
    pub fn workflow(&self) -> &str {
        &self.workflow
    }

    /// The fact types in the order of the file.
    pub fn fact_types(&self) -> impl Iterator<Item = &FactType> {
        self.types.iter()
    }

    /// The fact type `name`.
    #[must_use]
    pub fn fact_type(&self, name: &str) -> Option<&FactType> {
        self.type_index.get(name).map(|&at| &self.types[at])
    }

    /// The rules in the order of the file.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The functions that are called by name.
    pub fn called_functions(&self) -> impl Iterator<Item = &str> {
        self.functions.iter().map(String::as_str)
    }

    /// Whether some rule looks at shared facts: then turns are given them.
    #[must_use]
    pub const fn reads_shared(&self) -> bool {
        !self.interests.is_empty()
    }

    /// What is looked up when a shared fact changes; besides these, runs may be interested in every fact of a type.
    #[must_use]
    pub fn shapes(&self) -> &[interest::Shape] {
        &self.shapes
    }

    /// The bounds in force.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleSet")
            .field("path", &self.path)
            .field("workflow", &self.workflow)
            .field("types", &self.types.len())
            .field("rules", &self.rules.len())
            .finish_non_exhaustive()
    }
}
