//! The services that clients of the simulation ask. A workload is an operation, a random request for it, and what must hold
//! of a run of it in the end, whatever happened in between.
//!
//! To add one: its rules and its operation in `bundles/main` (or a bundle of its own in [`bundles`]), and an entry in
//! [`WORKLOADS`]. Functions answer with [`answer`]; what they answer follows from the input alone. The workflows of which
//! only so many runs may be under way are in `workloads/lanes.rs`.

pub(crate) mod lanes;

use std::time::Duration;

use celesta_bundle::{FileEntry, Files};
use serde_json::{Value, json};

use crate::chance::Chance;

/// Names that shared facts and the runs that listen to them have in common.
pub(crate) const NAMES: [&str; 4] = ["gold", "salt", "silk", "tea"];

/// A bundle of the simulation.
#[derive(Debug)]
struct BundleText {
    service: &'static str,
    /// Paths and texts.
    files: &'static [(&'static str, &'static str)],
}

macro_rules! bundle {
    ($name:literal: $($path:literal),+ $(,)?) => {
        BundleText {
            service: $name,
            files: &[$(($path, include_str!(concat!("../bundles/", $name, "/", $path)))),+],
        }
    };
}

/// The next version of [`MAIN`] has this instead.
const NEXT: (&str, &str) = ("rules/fan.rules", include_str!("../bundles/next/rules/fan.rules"));

/// The service with most of the workloads, of which there are two versions.
pub(crate) const MAIN: &str = "main";

/// The operation of [`MAIN`] whose finished runs are archived.
pub(crate) const ARCHIVED: &str = "burst";

/// How long they are kept before, as its `service.toml` says.
pub(crate) const KEPT: Duration = Duration::from_secs(30 * 60);

const BUNDLES: &[BundleText] = &[
    bundle!(
        "main": "service.toml", "rules/fan.rules", "rules/steps.rules", "rules/later.rules", "rules/burst.rules",
        "rules/parent.rules", "rules/fat.rules", "rules/canvas.rules", "rules/watch.rules", "rules/echo.rules",
        "functions/square/function.toml", "functions/same/function.toml", "functions/fat/function.toml",
    ),
    bundle!("sub": "service.toml", "rules/job.rules", "functions/double/function.toml"),
];

/// All bundles with their services, pushed at the start of each seed.
#[must_use]
pub fn bundles() -> Vec<(&'static str, Files)> {
    let written = BUNDLES.iter().map(|bundle| {
        let files = bundle.files.iter();
        let files = files.map(|&(path, text)| (path.to_owned(), FileEntry::text(text)));
        (bundle.service, files.collect())
    });
    written.chain([(lanes::SERVICE, lanes::files())]).collect()
}

/// The next version of [`MAIN`].
pub(crate) fn next_version() -> Files {
    let main = bundles().into_iter().find(|(service, _)| *service == MAIN);
    let (_, mut files) = main.unwrap_or_default();
    files.insert(NEXT.0.to_owned(), FileEntry::text(NEXT.1));
    files
}

/// The functions that workers of the simulation serve, with their services.
pub const FUNCTIONS: &[(&str, &str)] = &[
    ("main", "square"),
    ("main", "same"),
    ("main", "fat"),
    ("sub", "double"),
    (lanes::SERVICE, "pass"),
];

/// What `function` answers to `input`.
#[must_use]
pub fn answer(function: &str, input: &Value) -> Value {
    let x = input["x"].as_i64().unwrap_or(0);
    match function {
        "square" => json!({ "y": x * x }),
        "same" | "pass" => json!({ "y": x }),
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

impl Workload {
    /// Whether its finished runs are archived, and the keys of clients with them.
    pub(crate) fn is_archived(&self) -> bool {
        self.service == MAIN && self.operation == ARCHIVED
    }
}

impl Ended {
    /// The facts of that type.
    pub(crate) fn of<'a>(&'a self, fact_type: &'a str) -> impl Iterator<Item = &'a Value> {
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
    /// The service.
    pub service: &'static str,
    /// Its operation.
    pub operation: &'static str,
    /// How often it is chosen, beside the others.
    pub weight: usize,
    /// Whether its rules count facts of the type `Note` that clients write, in the fact of this type.
    pub notes: Option<&'static str>,
    /// The type of the events that start it, when there are any.
    pub event: Option<&'static str>,
    /// Whether a call that fails for good fails the run.
    pub fails: bool,
    /// Rules before which its runs are stopped, and from which they are done over.
    pub rules: &'static [&'static str],
    pub(crate) input: fn(&Chance) -> Value,
    /// What must hold of a run that has completed.
    pub(crate) check: fn(&Ended) -> Result<(), String>,
}

/// All of them.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        service: MAIN,
        operation: "fan",
        weight: 6,
        notes: Some("Order"),
        event: Some("sim.fan"),
        fails: false,
        rules: &["open", "work", "close"],
        input: |chance| json!({ "parts": chance.below(12), "base": chance.below(100) }),
        check: check_fan,
    },
    Workload {
        service: MAIN,
        operation: "steps",
        weight: 5,
        notes: Some("Walk"),
        event: None,
        fails: true,
        rules: &["step", "rest", "end"],
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
        service: MAIN,
        operation: "later",
        weight: 2,
        notes: Some("Wish"),
        event: None,
        fails: false,
        rules: &["ask", "ring"],
        input: |_| json!({ "seconds": 90 }),
        check: |run| equal("the result", &run.result, &json!({ "early": 0 })),
    },
    Workload {
        service: MAIN,
        operation: "burst",
        weight: 3,
        notes: None,
        event: None,
        fails: false,
        rules: &[],
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
        service: MAIN,
        operation: "parent",
        weight: 3,
        notes: Some("Plan"),
        event: None,
        fails: false,
        rules: &["open", "ask", "close"],
        input: |chance| json!({ "children": chance.below(6) }),
        check: check_parent,
    },
    Workload {
        service: MAIN,
        operation: "fat",
        weight: 1,
        notes: None,
        event: None,
        fails: true,
        rules: &["write", "bind"],
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
    Workload {
        service: MAIN,
        operation: "canvas",
        weight: 1,
        notes: Some("Easel"),
        event: None,
        fails: true,
        rules: &["stretch", "stroke", "sign"],
        input: |chance| json!({ "strokes": chance.between(1, 4) }),
        check: check_canvas,
    },
    Workload {
        service: MAIN,
        operation: "watch",
        weight: 3,
        notes: None,
        event: None,
        fails: false,
        rules: &["hear", "close at once", "call and close"],
        input: |chance| json!({ "name": NAMES[chance.below(NAMES.len())], "calls": chance.percent(50) }),
        check: |run| equal("the result", &run.result, &json!({ "y": 1 })),
    },
    lanes::workload("two"),
    lanes::workload("one"),
    lanes::workload("strict"),
    lanes::workload("first"),
    lanes::workload("last"),
    lanes::workload("latest"),
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
    // The next version of the workflow does that, in runs that have moved to it too.
    if let Some(stamped) = order.get("stamped") {
        equal("the stamp", stamped, &json!(true))?;
    }
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

fn check_canvas(run: &Ended) -> Result<(), String> {
    let strokes = number(&run.input["strokes"]);
    equal("the result", &run.result, &json!({ "strokes": strokes }))?;
    let text = answer("fat", &json!({ "x": strokes - 1 }));
    let text = text["text"].as_str().unwrap_or_default().repeat(4);
    let sheets: Vec<&Value> = run.of("Sheet").collect();
    equal("sheets", &json!(sheets.len()), &json!(3))?;
    for sheet in sheets {
        equal("strokes", &sheet["strokes"], &json!(strokes))?;
        if sheet["text"] != text {
            return Err("a sheet does not hold the text of the last stroke".to_owned());
        }
    }
    Ok(())
}
