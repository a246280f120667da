//! What is served next: the classes one after the other, and within a class the fairness keys in turn, by their weights.
//!
//! Fairness is stride scheduling. Each *flow*, the messages of one fairness key in one class, has a pass that grows by
//! the inverse of its weight with each message served; the flow with the smallest pass is next. A flow that comes back
//! after a pause starts at the class's own pass, so nobody saves up. Messages without a fairness key are one flow. A queue
//! without fairness keys has only that one, and pays nothing.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::entry::{NO_FLOW, Order};
use crate::line::Line;

/// What a message of weight 1 adds to the pass of its flow.
const STRIDE: u64 = 1 << 20;
/// Flows that are empty and not yet forgotten.
const EMPTY_MAX: usize = 1_024;
const CLASSES: usize = 5;

#[derive(Debug, Default)]
struct Flow {
    line: Line,
    pass: u64,
    weight: u64,
}

/// The messages of one class.
#[derive(Debug, Default)]
struct Class {
    plain: Flow,
    others: HashMap<u32, Flow, FxBuildHasher>,
    /// Flows that have something, by pass; empty as long as nobody uses fairness keys.
    active: BTreeSet<(u64, u32)>,
    /// The pass of what was served last.
    pass: u64,
}

impl Class {
    fn flow(&mut self, flow: u32) -> Option<&mut Flow> {
        if flow == NO_FLOW {
            Some(&mut self.plain)
        } else {
            self.others.get_mut(&flow)
        }
    }

    fn is_fair(&self) -> bool {
        !self.others.is_empty()
    }

    fn insert(&mut self, order: Order, number: u32, weight: u32) {
        let was_fair = self.is_fair();
        let pass = self.pass;
        let flow = if number == NO_FLOW {
            &mut self.plain
        } else {
            self.others.entry(number).or_default()
        };
        flow.weight = u64::from(weight.max(1));
        if flow.line.is_empty() {
            flow.pass = flow.pass.max(pass);
            if number != NO_FLOW || was_fair {
                self.active.insert((flow.pass, number));
            }
        }
        flow.line.insert(order);
        if !was_fair && self.is_fair() && !self.plain.line.is_empty() {
            self.plain.pass = self.plain.pass.max(pass);
            self.active.insert((self.plain.pass, NO_FLOW));
        }
    }

    fn remove(&mut self, order: &Order, number: u32) -> bool {
        let Some(flow) = self.flow(number) else {
            return false;
        };
        let was_there = flow.line.remove(order);
        let (pass, empty) = (flow.pass, flow.line.is_empty());
        if was_there && empty {
            self.active.remove(&(pass, number));
            if self.others.len() > 2 * self.active.len() + EMPTY_MAX {
                let now = self.pass;
                self.others
                    .retain(|_, flow| !flow.line.is_empty() || flow.pass > now);
            }
        }
        was_there
    }

    fn first(&self) -> Option<Order> {
        match self.active.first() {
            Some((_, NO_FLOW)) | None => self.plain.line.first(),
            Some((_, flow)) => self.others.get(flow)?.line.first(),
        }
    }

    /// A message of the flow was served.
    fn charge(&mut self, number: u32) {
        if !self.is_fair() {
            return;
        }
        let Some(flow) = self.flow(number) else { return };
        let before = flow.pass;
        flow.pass += STRIDE / flow.weight.max(1);
        let (after, empty) = (flow.pass, flow.line.is_empty());
        self.pass = self.pass.max(before);
        if !empty {
            self.active.remove(&(before, number));
            self.active.insert((after, number));
        }
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        std::iter::once(&self.plain.line).chain(self.others.values().map(|flow| &flow.line))
    }
}

/// All messages, or all first messages of free keys, that may be leased.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    classes: [Class; CLASSES],
    len: usize,
}

const fn class_of(rank: u32) -> usize {
    let class = (rank >> 16) as usize;
    if class < CLASSES { class } else { CLASSES - 1 }
}

impl Schedule {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, order: Order, flow: u32, weight: u32) {
        self.classes[class_of(order.rank)].insert(order, flow, weight);
        self.len += 1;
    }

    pub(crate) fn remove(&mut self, order: &Order, flow: u32) -> bool {
        let was_there = self.classes[class_of(order.rank)].remove(order, flow);
        self.len -= usize::from(was_there);
        was_there
    }

    pub(crate) fn first(&self) -> Option<Order> {
        self.classes.iter().find_map(Class::first)
    }

    /// The message at `order` was served: its flow has had its turn.
    pub(crate) fn charge(&mut self, order: &Order, flow: u32) {
        self.classes[class_of(order.rank)].charge(flow);
    }

    /// Roughly the next `max` messages: of each class and flow the first ones, beginning after `after`.
    pub(crate) fn upcoming(&self, after: Option<Order>, max: usize) -> Vec<Order> {
        let from = after.map_or(0, |after| class_of(after.rank));
        let mut orders = Vec::new();
        for (number, class) in self.classes.iter().enumerate().skip(from) {
            let after = after.filter(|after| class_of(after.rank) == number);
            let lines = class.lines().filter(|line| !line.is_empty()).count().max(1);
            let each = (max.saturating_sub(orders.len()) / lines).max(1);
            for line in class.lines() {
                let room = each.min(max.saturating_sub(orders.len()));
                orders.extend(line.iter_after(after).take(room));
            }
            if orders.len() >= max {
                break;
            }
        }
        orders
    }

    /// The first `max` messages in the order of class, number, deadline and enqueue order.
    pub(crate) fn ordered(&self, max: usize) -> Vec<Order> {
        let mut orders: Vec<Order> = Vec::new();
        for class in &self.classes {
            let room = max.saturating_sub(orders.len());
            if room == 0 {
                break;
            }
            let mut of_class: Vec<Order> = class.lines().flat_map(|line| line.iter().take(room)).collect();
            of_class.sort_unstable();
            of_class.truncate(room);
            orders.extend(of_class);
        }
        orders
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::NEVER;

    fn order(seq: i64) -> Order {
        Order {
            rank: 2 << 16,
            slot: 0,
            deadline: NEVER,
            seq,
        }
    }

    /// Serves `count` messages; `flow_of` tells whose a message is.
    fn serve(schedule: &mut Schedule, count: usize, flow_of: impl Fn(i64) -> u32) -> Vec<u32> {
        (0..count)
            .map(|_| {
                let first = schedule.first().expect("there are enough");
                let flow = flow_of(first.seq);
                assert!(schedule.remove(&first, flow));
                schedule.charge(&first, flow);
                flow
            })
            .collect()
    }

    #[test]
    fn a_hundred_thousand_messages_of_one_key_do_not_starve_ten_of_another() {
        let mut schedule = Schedule::default();
        for seq in 0..100_000 {
            schedule.insert(order(seq), 1, 1);
        }
        for seq in 100_000..100_010 {
            schedule.insert(order(seq), 2, 1);
        }
        let flow_of = |seq| if seq < 100_000 { 1 } else { 2 };
        let served = serve(&mut schedule, 20, flow_of);
        assert_eq!(served.iter().filter(|&&flow| flow == 2).count(), 10);
    }

    #[test]
    fn weights_are_shares() {
        let mut schedule = Schedule::default();
        for seq in 0..1_000 {
            schedule.insert(order(seq), 1, 3);
            schedule.insert(order(seq + 1_000), 2, 1);
            schedule.insert(order(seq + 2_000), NO_FLOW, 1);
        }
        let flow_of = |seq: i64| [1, 2, NO_FLOW][usize::try_from(seq / 1_000).expect("small")];
        let served = serve(&mut schedule, 1_000, flow_of);
        let count = |flow| served.iter().filter(|&&other| other == flow).count();
        assert_eq!((count(1), count(2), count(NO_FLOW)), (600, 200, 200));
    }

    #[test]
    fn a_flow_that_pauses_saves_nothing_up() {
        let mut schedule = Schedule::default();
        for seq in 0..1_000 {
            schedule.insert(order(seq), 1, 1);
        }
        schedule.insert(order(1_000), 2, 1);
        let flow_of = |seq| if seq < 1_000 { 1 } else { 2 };
        serve(&mut schedule, 500, flow_of);
        for seq in 2_000..2_100 {
            schedule.insert(order(seq), 2, 1);
        }
        let served = serve(&mut schedule, 100, flow_of);
        assert!(served.iter().filter(|&&flow| flow == 2).count() <= 51);
    }
}
