//! Finding messages by metadata: for each pair the messages that have it. A search looks at the pair that fewest
//! messages have and checks the others at each, so its cost is linear in the pairs and never a walk over the queue.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::entry::{NEVER, Order};
use crate::line::Line;

type Pair = (String, String);

#[derive(Default)]
struct Posting {
    pair: Pair,
    /// All messages in memory that have the pair, by enqueue order.
    members: Line,
    /// Those of them in the schedule.
    seated: Line,
}

#[derive(Default)]
pub(crate) struct Pairs {
    numbers: HashMap<Pair, u32, FxBuildHasher>,
    postings: Vec<Posting>,
    unused: Vec<u32>,
}

const fn by_seq(order: Order) -> Order {
    Order {
        rank: 0,
        deadline: NEVER,
        ..order
    }
}

impl Pairs {
    /// Adds a message with these pairs; gives their numbers, sorted.
    pub(crate) fn join(&mut self, metadata: &[Pair], order: Order) -> Box<[u32]> {
        let mut numbers: Vec<u32> = metadata.iter().map(|pair| self.number(pair)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for &number in &numbers {
            self.postings[number as usize].members.insert(by_seq(order));
        }
        numbers.into()
    }

    /// Forgets a message.
    pub(crate) fn leave(&mut self, numbers: &[u32], order: Order) {
        for &number in numbers {
            let posting = &mut self.postings[number as usize];
            posting.members.remove(&by_seq(order));
            if posting.members.is_empty() {
                let posting = std::mem::take(posting);
                self.numbers.remove(&posting.pair);
                self.unused.push(number);
            }
        }
    }

    pub(crate) fn seat(&mut self, numbers: &[u32], order: Order) {
        for &number in numbers {
            self.postings[number as usize].seated.insert(order);
        }
    }

    pub(crate) fn unseat(&mut self, numbers: &[u32], order: &Order) {
        for &number in numbers {
            self.postings[number as usize].seated.remove(order);
        }
    }

    /// The numbers of these pairs; nothing when no message has one of them.
    pub(crate) fn resolve(&self, metadata: &[Pair]) -> Option<Vec<u32>> {
        metadata
            .iter()
            .map(|pair| self.numbers.get(pair).copied())
            .collect()
    }

    /// The shortest list of messages in the schedule that have one of these pairs.
    pub(crate) fn seated(&self, numbers: &[u32]) -> Option<&Line> {
        let lines = numbers
            .iter()
            .map(|&number| &self.postings[number as usize].seated);
        lines.min_by_key(|line| line.len())
    }

    /// The shortest list of messages that have one of these pairs.
    pub(crate) fn members(&self, numbers: &[u32]) -> Option<&Line> {
        let lines = numbers
            .iter()
            .map(|&number| &self.postings[number as usize].members);
        lines.min_by_key(|line| line.len())
    }

    fn number(&mut self, pair: &Pair) -> u32 {
        if let Some(&number) = self.numbers.get(pair) {
            return number;
        }
        let number = self.unused.pop().unwrap_or_else(|| {
            self.postings.push(Posting::default());
            u32::try_from(self.postings.len() - 1).expect("pairs are bounded by eight a message")
        });
        self.postings[number as usize].pair = pair.clone();
        self.numbers.insert(pair.clone(), number);
        number
    }
}
