use std::fmt::Write as _;

use super::*;

fn process(node: &str, incarnation: i64) -> Process {
    Process {
        node: node.to_owned(),
        incarnation,
    }
}

fn own() -> Own {
    Own {
        process: process("a", 2),
        leaving: false,
        refused: BTreeSet::new(),
        standings: BTreeMap::new(),
        overdue: BTreeMap::new(),
    }
}

fn row(partition: u32, holder: Option<Process>, left_ms: i64) -> Row {
    Row {
        partition,
        holder,
        epoch: 7,
        left_ms,
        place: None,
        wanted: None,
        problem: None,
    }
}

/// Every row a process may see against every standing it may have, alone with one partition.
#[test]
fn the_table_in_the_docs_is_what_is_decided() {
    let rows = [
        ("nobody", row(0, None, 0)),
        ("this process", row(0, Some(process("a", 2)), 4_000)),
        (
            "this process, to be moved",
            Row {
                wanted: Some("fast".to_owned()),
                ..row(0, Some(process("a", 2)), 4_000)
            },
        ),
        (
            "an earlier process of the node",
            row(0, Some(process("a", 1)), 4_000),
        ),
        ("another node", row(0, Some(process("b", 1)), 4_000)),
        (
            "another node, over since a look",
            row(0, Some(process("b", 1)), -1),
        ),
        (
            "another node, over for two looks",
            row(0, Some(process("b", 1)), -1),
        ),
    ];
    let standings = [
        ("not here", None),
        ("opening", Some(Standing::Opening { epoch: 7 })),
        ("open", Some(Standing::Open { epoch: 7 })),
        ("open, earlier epoch", Some(Standing::Open { epoch: 6 })),
        ("closing", Some(Standing::Closing { epoch: 7 })),
    ];
    let mut table = String::from("| the row names |");
    for (name, _) in &standings {
        write!(table, " {name} |").expect("a String takes any text");
    }
    table.push_str("\n|---|---|---|---|---|---|\n");
    for (name, seen) in &rows {
        write!(table, "| {name} |").expect("a String takes any text");
        for (_, standing) in &standings {
            let mut own = own();
            own.standings.extend(standing.map(|standing| (0, standing)));
            if name.ends_with("two looks") {
                own.overdue.insert(0, 7);
            }
            let (steps, _) = decide(&own, 1, std::slice::from_ref(seen));
            let said = match steps.as_slice() {
                [] => "–",
                [Step::Claim { epoch: 7, .. }] => "claim",
                [Step::Drop { .. }] => "drop",
                [Step::GiveUp { .. }] => "give up",
                other => unreachable!("{other:?}"),
            };
            write!(table, " {said} |").expect("a String takes any text");
        }
        table.push('\n');
    }
    let page = include_str!("../../../../../docs/cluster.md");
    assert!(page.contains(&table), "docs/cluster.md should hold:\n{table}");
}

#[test]
fn shares_are_even_and_nothing_moves_without_need() {
    let held_by = |counts: &[usize]| {
        let mut rows = Vec::new();
        for (node, count) in counts.iter().enumerate() {
            let holder = process(["a", "b", "c"][node], 2);
            for _ in 0..*count {
                rows.push(row(
                    u32::try_from(rows.len()).unwrap_or(0),
                    Some(holder.clone()),
                    4_000,
                ));
            }
        }
        rows
    };
    let steps_of = |rows: &[Row], alive| {
        let mut own = own();
        let mine = rows
            .iter()
            .filter(|row| row.holder.as_ref() == Some(&own.process));
        own.standings = mine
            .map(|row| (row.partition, Standing::Open { epoch: 7 }))
            .collect();
        decide(&own, alive, rows).0
    };
    assert_eq!(steps_of(&held_by(&[4, 4]), 2), []);
    assert_eq!(steps_of(&held_by(&[3, 3, 2]), 3), []);
    // A second node has come.
    let gives: Vec<Step> = [7, 6, 5, 4].map(|partition| Step::GiveUp { partition }).into();
    assert_eq!(steps_of(&held_by(&[8]), 2), gives);
    // One of two has gone, and its leases are over for the first time.
    let mut rows = held_by(&[4, 4]);
    for row in &mut rows[4..] {
        row.left_ms = 0;
    }
    assert_eq!(steps_of(&rows, 1), []);
}

#[test]
fn a_leaving_process_wants_nothing_and_frees_what_it_never_opened() {
    let mut own = own();
    own.leaving = true;
    own.standings.insert(0, Standing::Open { epoch: 7 });
    own.standings.insert(1, Standing::Opening { epoch: 7 });
    let mine = || Some(process("a", 2));
    let rows = [
        row(0, mine(), 1),
        row(1, mine(), 1),
        row(2, mine(), 1),
        row(3, None, 0),
    ];
    let steps = decide(&own, 1, &rows).0;
    assert_eq!(
        steps,
        [
            Step::Free {
                partition: 2,
                epoch: 7
            },
            Step::GiveUp { partition: 0 }
        ],
        "what is opening is given up once it is open"
    );
}

#[test]
fn what_could_not_be_opened_is_left_to_others() {
    let mut own = own();
    own.refused.insert(0);
    let rows = [row(0, None, 0), row(1, None, 0)];
    assert_eq!(
        decide(&own, 1, &rows).0,
        [Step::Claim {
            partition: 1,
            epoch: 7
        }]
    );
}

/// Nodes that only follow their steps end with every partition held by one of them, whoever comes and goes.
#[test]
fn nodes_that_come_and_go_end_with_even_shares() {
    let names = ["a", "b", "c", "d"];
    for seed in 0..200_u64 {
        let mut draw = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move |below: u64| {
            draw ^= draw << 13;
            draw ^= draw >> 7;
            draw ^= draw << 17;
            draw % below
        };
        let mut rows: Vec<Row> = (0..8).map(|partition| row(partition, None, 0)).collect();
        let mut nodes: Vec<Own> = names
            .iter()
            .map(|name| Own {
                process: process(name, 1),
                ..own()
            })
            .collect();
        let mut up = [true; 4];
        for round in 0..60 {
            if round < 30 && next(4) == 0 {
                let at = usize::try_from(next(4)).unwrap_or(0);
                up[at] = !up[at];
                // Down means dead: what it knew is gone, and it comes back as another process.
                nodes[at].standings.clear();
                nodes[at].overdue.clear();
                nodes[at].process.incarnation += 1;
            }
            if round == 30 {
                up = [true, false, true, true];
            }
            let alive = up.iter().filter(|up| **up).count();
            for at in (0..4).filter(|&at| up[at]) {
                let node = &mut nodes[at];
                for row in rows
                    .iter_mut()
                    .filter(|row| row.holder.as_ref() == Some(&node.process))
                {
                    row.left_ms = 3;
                }
                let (steps, overdue) = decide(node, alive, &rows);
                node.overdue = overdue;
                for step in steps {
                    match step {
                        Step::Claim { partition, epoch } => {
                            let row = &mut rows[usize::try_from(partition).unwrap_or(0)];
                            assert_eq!(row.epoch, epoch);
                            row.epoch += 1;
                            row.holder = Some(node.process.clone());
                            row.left_ms = 3;
                            node.standings
                                .insert(partition, Standing::Open { epoch: row.epoch });
                        }
                        Step::GiveUp { partition } => {
                            rows[usize::try_from(partition).unwrap_or(0)].holder = None;
                            node.standings.remove(&partition);
                        }
                        Step::Drop { partition } => {
                            node.standings.remove(&partition);
                        }
                        Step::Free { .. } => unreachable!("nothing is half open here"),
                    }
                }
            }
            for row in &mut rows {
                row.left_ms -= 1;
            }
        }
        for name in ["a", "c", "d"] {
            let held = rows
                .iter()
                .filter(|row| row.holder.as_ref().is_some_and(|holder| holder.node == name));
            assert!((2..=3).contains(&held.count()), "seed {seed}: {rows:?}");
        }
    }
}
