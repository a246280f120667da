//! temporary
use celesta_sim::{Options, run_many, bugs};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let first: u64 = a[1].parse().expect("n");
    let seeds: u64 = a[2].parse().expect("n");
    let events: u64 = a[3].parse().expect("n");
    let threads: usize = a[4].parse().expect("n");
    let bug = a.get(5).and_then(|n| bugs::named(n));
    let print = a.get(5).is_some_and(|n| n == "print");
    let stop = a.get(5).is_some_and(|n| n == "stop") || bug.is_some();
    let t = std::time::Instant::now();
    let s = run_many(first, seeds, threads, &Options { seed: 0, events, bug, print }, |o| { if seeds < 4 { eprintln!("{} {:016x}", o.seed, o.digest);} stop && !o.violations.is_empty() }).expect("runs");
    for v in s.violating.iter().take(5) { println!("seed {} events {}", v.seed, v.events); if stop || seeds==1 { for l in &v.latest { println!("   {l}"); } } for l in &v.violations { println!("  V {l}"); } }
    println!("{:?}", s.counts);
    println!("seeds {} events {} violating {} {:?}", s.seeds, s.events, s.violating.len(), t.elapsed());
}
