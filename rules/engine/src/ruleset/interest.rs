//! Interests of a rule set in shared facts: which of a run's facts say which shared facts may concern it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::Value;
use crate::expression::Expr;

/// What is looked up when a shared fact changes: its type, and the fields whose values make the key. Without fields it
/// finds the runs that are interested in every fact of the type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// The type.
    pub fact_type: Arc<str>,
    /// The fields, by name.
    pub fields: Vec<Arc<str>>,
}

/// One clause on shared facts.
#[derive(Debug)]
pub(crate) struct Interest {
    /// The rule's first node.
    pub first: usize,
    /// Clauses that must have a fact of the run: without one nothing can match.
    pub needs: Vec<usize>,
    /// Its shape, as an index.
    pub shape: usize,
    /// The clause whose facts make keys; none when there is one key for all.
    pub source: Option<usize>,
    /// The values of the shape's fields, as the source says them.
    pub keys: Vec<Expr>,
}

impl Shape {
    /// The key of a fact with these fields, a map: what runs that are interested in it have noted. Stable across
    /// releases.
    #[must_use]
    pub fn key(&self, fields: &Value) -> u64 {
        let mut hasher = self.hasher();
        for name in &self.fields {
            fields.get(name).unwrap_or(&Value::Null).hash_into(&mut hasher);
        }
        hasher.finish()
    }

    pub(crate) fn hasher(&self) -> Stable {
        let mut hasher = Stable(0xcbf2_9ce4_8422_2325);
        self.fact_type.hash(&mut hasher);
        self.fields.iter().for_each(|field| field.hash(&mut hasher));
        hasher
    }

    /// The shape of all facts of the same type.
    pub(crate) fn any(&self) -> Self {
        Self {
            fact_type: Arc::clone(&self.fact_type),
            fields: Vec::new(),
        }
    }
}

/// FNV-1a of 64 bits, mixed at the end: the same in every release and on every machine of one byte order. Two values
/// of one key only wake a run that finds nothing to do.
pub(crate) struct Stable(u64);

impl Hasher for Stable {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    }
}

/// Whether an expression needs the script engine.
pub(crate) fn is_scripted(expr: &Expr) -> bool {
    match expr {
        // Keys of interests are stable between versions; a function may change.
        Expr::Script(_) | Expr::Own(..) => true,
        Expr::Const(_) | Expr::Slot(..) | Expr::Level(_) => false,
        Expr::Get(inner, _) | Expr::Not(inner) | Expr::Negate(inner) => is_scripted(inner),
        Expr::Index(sides) | Expr::Binary(_, sides) => is_scripted(&sides.0) || is_scripted(&sides.1),
        Expr::All(parts)
        | Expr::Some(parts)
        | Expr::Coalesce(parts)
        | Expr::Builtin(_, parts)
        | Expr::List(parts)
        | Expr::Joined(parts) => parts.iter().any(is_scripted),
        Expr::Map(entries) => entries.iter().any(|(_, part)| is_scripted(part)),
    }
}
