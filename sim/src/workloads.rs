//! The services that clients of the simulation ask. A workload is an operation, a random request for it, and what must hold
//! of a run of it in the end, whatever happened in between.
//!
//! To add one: its rules and its operation in `bundles/main` (or a bundle of its own in [`BUNDLES`]), and an entry in
//! [`WORKLOADS`]. Functions answer with [`answer`]; what they answer follows from the input alone.

use celesta_bundle::{FileEntry, Files};
use serde_json::{Value, json};

use crate::chance::Chance;

/// A bundle of the simulation.
#[derive(Debug)]
pub struct BundleText {
    /// The service.
    pub service: &'static str,
    /// Paths and texts.
    pub files: &'static [(&'static str, &'static str)],
}

macro_rules! bundle {
    ($name:literal: $($path:literal),+ $(,)?) => {
        BundleText {
            service: $name,
            files: &[$(($path, include_str!(concat!("../bundles/", $name, "/", $path)))),+],
        }
    };
}

/// All bundles, pushed at the start of each seed.
pub const BUNDLES: &[BundleText] = &[
    bundle!(
        "main": "service.toml", "rules/fan.rules", "rules/steps.rules", "rules/later.rules", "rules/burst.rules",
        "rules/parent.rules", "rules/fat.rules", "functions/square/function.toml", "functions/same/function.toml",
        "functions/fat/function.toml",
    ),
    bundle!("sub": "service.toml", "rules/job.rules", "functions/double/function.toml"),
];

impl BundleText {
    /// The files as they are pushed.
    #[must_use]
    pub fn files(&self) -> Files {
        let files = self.files.iter();
        files
            .map(|&(path, text)| (path.to_owned(), FileEntry::text(text)))
            .collect()
    }
}

/// The functions that workers of the simulation serve, with their services.
pub const FUNCTIONS: &[(&str, &str)] = &[
    ("main", "square"),
    ("main", "same"),
    ("main", "fat"),
    ("sub", "double"),
];

/// What `function` answers to `input`.
#[must_use]
pub fn answer(function: &str, input: &Value) -> Value {
    let x = input["x"].as_i64().unwrap_or(0);
    match function {
        "square" => json!({ "y": x * x }),
        "same" => json!({ "y": x }),
        "double" => json!({ "y": 2 * x }),
        "fat" => {
            let letter = char::from(b'a' + u8::try_from(x.rem_euclid(26)).unwrap_or(0));
            json!({ "text": letter.to_string().repeat(6_000) })
        }
        other => json!({ "unknown": other }),
    }
}

/// A run as it stands in the end.
#[derive(Debug)]
pub struct Ended {
    /// The request.
    pub input: Value,
    /// The result of a completed run.
    pub result: Value,
    /// The facts: type and value.
    pub facts: Vec<(String, Value)>,
}

impl Ended {
    /// The facts of that type.
    fn of<'a>(&'a self, fact_type: &'a str) -> impl Iterator<Item = &'a Value> {
        let facts = self.facts.iter().filter(move |(of, _)| of == fact_type);
        facts.map(|(_, value)| value)
    }

    /// The one fact of that type.
    fn one<'a>(&'a self, fact_type: &'a str) -> Result<&'a Value, String> {
        let mut facts = self.of(fact_type);
        match (facts.next(), facts.next()) {
            (Some(fact), None) => Ok(fact),
            (None, _) => Err(format!("there is no fact {fact_type}")),
            (Some(_), Some(_)) => Err(format!("there are several facts {fact_type}")),
        }
    }
}

/// One operation that clients ask for.
#[derive(Debug)]
pub struct Workload {
    /// The operation of the service `main`.
    pub operation: &'static str,
    /// How often it is chosen, beside the others.
    pub weight: usize,
    /// Whether its rules count facts of the type `Note` that clients write, in the fact of this type.
    pub notes: Option<&'static str>,
    pub(crate) input: fn(&Chance) -> Value,
    /// What must hold of a run that has completed.
    pub(crate) check: fn(&Ended) -> Result<(), String>,
}

/// All of them.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        operation: "fan",
        weight: 6,
        notes: Some("Order"),
        input: |chance| json!({ "parts": chance.below(12), "base": chance.below(100) }),
        check: check_fan,
    },
    Workload {
        operation: "steps",
        weight: 5,
        notes: Some("Walk"),
        input: |chance| json!({ "total": chance.below(9) }),
        check: |run| {
            let total = run.input["total"].as_i64().unwrap_or(-1);
            let sum: i64 = (0..total).filter(|at| at % 2 == 0).sum();
            equal(
                "the result",
                &run.result,
                &json!({ "at": total, "early": 0, "sum": sum }),
            )
        },
    },
    Workload {
        operation: "later",
        weight: 2,
        notes: Some("Wish"),
        input: |_| json!({ "seconds": 90 }),
        check: |run| equal("the result", &run.result, &json!({ "early": 0 })),
    },
    Workload {
        operation: "burst",
        weight: 3,
        notes: None,
        input: |chance| json!({ "calls": chance.between(1, 8) }),
        check: |run| {
            equal("answers", &run.one("Burst")?["answers"], &json!(1))?;
            equal(
                "the number of results",
                &run.result["results"],
                &run.input["calls"],
            )
        },
    },
    Workload {
        operation: "parent",
        weight: 3,
        notes: Some("Plan"),
        input: |chance| json!({ "children": chance.below(6) }),
        check: check_parent,
    },
    Workload {
        operation: "fat",
        weight: 1,
        notes: None,
        input: |chance| json!({ "pages": chance.between(8, 24) }),
        check: |run| {
            equal("the pages", &run.result["pages"], &run.input["pages"])?;
            let whole = run.of("Page").all(|page| {
                let text = answer("fat", &json!({ "x": page["index"] }));
                page["text"] == text["text"]
            });
            if whole {
                Ok(())
            } else {
                Err("a page does not hold its text".to_owned())
            }
        },
    },
];

fn equal(what: &str, found: &Value, expected: &Value) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: expected {expected}, found {found}"))
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(i64::MIN)
}

fn check_fan(run: &Ended) -> Result<(), String> {
    let order = run.one("Order")?;
    let parts: Vec<&Value> = run.of("Part").collect();
    equal("parts", &json!(parts.len()), &run.input["parts"])?;
    let done: Vec<&&Value> = parts.iter().filter(|part| part["state"] == "done").collect();
    let lost = parts.iter().filter(|part| part["state"] == "lost").count();
    if let Some(wrong) = done
        .iter()
        .find(|part| number(&part["got"]) != number(&part["value"]).pow(2))
    {
        return Err(format!("{wrong} got another call's result"));
    }
    let sum: i64 = done.iter().map(|part| number(&part["got"])).sum();
    let expected = json!({ "done": done.len(), "lost": lost, "sum": sum });
    equal("the result", &run.result, &expected)?;
    let counted = json!({ "done": order["done"], "lost": order["lost"], "sum": order["sum"] });
    equal("what was counted", &counted, &expected)?;
    equal("all parts", &json!(done.len() + lost), &run.input["parts"])
}

fn check_parent(run: &Ended) -> Result<(), String> {
    let children = number(&run.input["children"]);
    let (done, lost) = (number(&run.result["done"]), number(&run.result["lost"]));
    equal("done and lost", &json!(done + lost), &run.input["children"])?;
    let refused = (0..children).filter(|child| child % 5 == 4).count();
    if lost < i64::try_from(refused).unwrap_or(0) {
        return Err(format!(
            "{refused} requests are always refused, and {lost} were lost"
        ));
    }
    if done == children {
        equal(
            "the sum",
            &run.result["sum"],
            &json!((0..children).map(|x| 2 * x).sum::<i64>()),
        )?;
    }
    Ok(())
}
