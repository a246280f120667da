//! What has to be true when a program has ended.

use std::collections::{BTreeMap, BTreeSet};

use celesta_engine::{Effect, Outcome, Value, WorkingMemory};

/// A fact's fields by name.
type Fields<'a> = BTreeMap<&'a str, &'a Value>;

/// The facts of a type.
fn facts<'a>(memory: &'a WorkingMemory, fact_type: &'a str) -> impl Iterator<Item = Fields<'a>> {
    (memory.facts())
        .filter(move |fact| fact.fact_type == fact_type)
        .map(|fact| fact.slots.into_iter().collect())
}

/// Every guest sits once, and neighbors differ in sex and share a hobby.
pub(super) fn table_is_set(guests: u32, memory: &WorkingMemory) -> Result<(), String> {
    let mut sexes: BTreeMap<String, &Value> = BTreeMap::new();
    let mut hobbies: BTreeSet<(String, String)> = BTreeSet::new();
    for guest in facts(memory, "guest") {
        let name = guest["name"].to_string();
        sexes.insert(name.clone(), guest["sex"]);
        hobbies.insert((name, guest["hobby"].to_string()));
    }
    let seatings: BTreeMap<i64, Fields<'_>> = facts(memory, "seating")
        .filter_map(|seating| Some((seating["id"].as_int()?, seating)))
        .collect();
    let last = seatings
        .values()
        .find(|seating| seating["seat2"].as_int() == Some(guests.into()));
    let mut at = Some(last.ok_or("nobody sits on the last seat")?);
    let mut seated = BTreeSet::new();
    while let Some(seating) = at {
        let (left, right) = (seating["name1"].to_string(), seating["name2"].to_string());
        let before = seating["pid"].as_int().and_then(|before| seatings.get(&before));
        if before.is_some() {
            let share = |(name, hobby): &(String, String)| {
                *name == left && hobbies.contains(&(right.clone(), hobby.clone()))
            };
            if sexes.get(&left) == sexes.get(&right) || !hobbies.iter().any(share) {
                return Err(format!("{left} and {right} sit side by side"));
            }
        }
        if !seated.insert(right.clone()) {
            return Err(format!("{right} sits twice"));
        }
        at = before;
    }
    if seated.len() == sexes.len() {
        Ok(())
    } else {
        Err(format!("{} of {} guests sit", seated.len(), sexes.len()))
    }
}

/// All discs are on the last peg, no goal is left, and the count of firings is the one that the puzzle has.
pub(super) fn tower_has_moved(discs: u32, memory: &WorkingMemory, firings: usize) -> Result<(), String> {
    let target = Value::from("c");
    let moved = facts(memory, "disc")
        .filter(|disc| *disc["peg"] == target)
        .count();
    let expected = 3 * (1_u64 << discs) - 2;
    if u32::try_from(moved) != Ok(discs) || facts(memory, "goal").next().is_some() {
        return Err(format!("{moved} of {discs} discs are on the last peg"));
    }
    if u64::try_from(firings) != Ok(expected) {
        return Err(format!("{firings} firings, not {expected}"));
    }
    Ok(())
}

/// Of each drawing the only labeling there is: so many edges of each label.
pub(super) fn lines_are_labeled(drawings: u32, memory: &WorkingMemory) -> Result<(), String> {
    for (label, of_each) in [("+", 18), ("-", 6), ("B", 12), ("nil", 0)] {
        let (wanted, found) = (
            u64::from(drawings) * of_each,
            facts(memory, "Edge")
                .filter(|edge| *edge["label"] == Value::from(label))
                .count(),
        );
        if u64::try_from(found) != Ok(wanted) {
            return Err(format!("{found} edges are labeled {label}, not {wanted}"));
        }
    }
    Ok(())
}

/// Every chunk is done, and the job has completed once with their number.
pub(super) fn chunks_are_done(chunks: u32, memory: &WorkingMemory, outcome: &Outcome) -> Result<(), String> {
    let done = Value::from("done");
    let finished = facts(memory, "Chunk")
        .filter(|chunk| *chunk["state"] == done)
        .count();
    if u32::try_from(finished) != Ok(chunks) {
        return Err(format!("{finished} of {chunks} chunks are done"));
    }
    let results: Vec<&str> = (outcome.effects.iter())
        .filter_map(|effect| match effect {
            Effect::Complete { result_json } => Some(&**result_json),
            _ => None,
        })
        .collect();
    let expected = format!(r#"{{"chunks":{chunks}}}"#);
    if results == [expected.as_str()] {
        Ok(())
    } else {
        Err(format!(
            "the job completed with {results:?}, not once with {expected}"
        ))
    }
}
