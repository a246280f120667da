//! Messages in order: class and number, then deadline, then enqueue order. A message that leaves is taken out at once, so
//! that no place is ever stale, and nothing large is ever moved under the lock.
//!
//! Nearly all messages have no deadline and come in enqueue order, so they stand in short sorted pieces: putting one at the
//! end and taking one from the front cost a few nanoseconds, and each costs 16 bytes.

use std::collections::{BTreeMap, VecDeque};

use crate::entry::{NEVER, Order};

/// Seats of one piece: moving half of them is a copy of 4 KiB.
const PIECE: usize = 512;

/// A message without a deadline in its lane.
#[derive(Debug, Clone, Copy)]
struct Seat {
    seq: i64,
    slot: u32,
}

/// Sorted seats; those before `start` have been taken.
#[derive(Debug)]
struct Piece {
    start: usize,
    seats: Vec<Seat>,
}

impl Piece {
    fn new(seat: Seat, capacity: usize) -> Self {
        let mut seats = Vec::with_capacity(capacity);
        seats.push(seat);
        Self { start: 0, seats }
    }

    fn live(&self) -> &[Seat] {
        &self.seats[self.start..]
    }
}

/// Seats by enqueue order.
#[derive(Debug, Default)]
struct Seats {
    pieces: VecDeque<Piece>,
}

impl Seats {
    fn first(&self) -> Option<Seat> {
        self.pieces.front()?.live().first().copied()
    }

    /// Which piece holds, or should hold, `seq`.
    fn piece_of(&self, seq: i64) -> usize {
        let after = self
            .pieces
            .partition_point(|piece| piece.live().first().is_some_and(|first| first.seq <= seq));
        after.saturating_sub(1)
    }

    fn insert(&mut self, seat: Seat) {
        let Some(last) = self.pieces.back_mut() else {
            // A short queue stays small.
            self.pieces.push_back(Piece::new(seat, 4));
            return;
        };
        if last.live().last().is_some_and(|last| last.seq < seat.seq) {
            if last.seats.len() < PIECE {
                last.seats.push(seat);
            } else {
                self.pieces.push_back(Piece::new(seat, PIECE));
            }
            return;
        }
        let at = self.piece_of(seat.seq);
        let piece = &mut self.pieces[at];
        let place = piece.live().partition_point(|other| other.seq < seat.seq) + piece.start;
        if piece.start > 0 {
            // The room of those that were taken: shift the ones before it.
            piece.seats.copy_within(piece.start..place, piece.start - 1);
            piece.start -= 1;
            piece.seats[place - 1] = seat;
            return;
        }
        piece.seats.insert(place, seat);
        if piece.seats.len() > PIECE {
            let second = piece.seats.split_off(PIECE / 2);
            self.pieces.insert(
                at + 1,
                Piece {
                    start: 0,
                    seats: second,
                },
            );
        }
    }

    fn remove(&mut self, seq: i64) -> bool {
        if self.pieces.is_empty() {
            return false;
        }
        let at = self.piece_of(seq);
        let piece = &mut self.pieces[at];
        let Ok(place) = piece.live().binary_search_by_key(&seq, |seat| seat.seq) else {
            return false;
        };
        if place == 0 {
            piece.start += 1;
        } else {
            let place = place + piece.start;
            piece.seats.remove(place);
        }
        if piece.live().is_empty() {
            self.pieces.remove(at);
        }
        true
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn iter_after(&self, seq: i64) -> impl Iterator<Item = Seat> {
        let pieces = self.pieces.range(self.piece_of(seq).min(self.pieces.len())..);
        pieces
            .flat_map(|piece| piece.live().iter().copied())
            .skip_while(move |seat| seat.seq <= seq)
    }
}

/// Messages of one class and number.
#[derive(Debug, Default)]
struct Lane {
    /// Those with a deadline come first.
    dated: BTreeMap<(i64, i64), u32>,
    plain: Seats,
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.dated.is_empty() && self.plain.is_empty()
    }
}

/// Messages in the order they are served.
#[derive(Debug, Default)]
pub(crate) struct Line {
    lanes: BTreeMap<u32, Lane>,
    len: usize,
}

impl Line {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn insert(&mut self, order: Order) {
        let lane = self.lanes.entry(order.rank).or_default();
        self.len += 1;
        if order.deadline == NEVER {
            lane.plain.insert(Seat {
                seq: order.seq,
                slot: order.slot,
            });
        } else {
            lane.dated.insert((order.deadline, order.seq), order.slot);
        }
    }

    /// Takes the message out; says whether it was there.
    pub(crate) fn remove(&mut self, order: &Order) -> bool {
        let Some(lane) = self.lanes.get_mut(&order.rank) else {
            return false;
        };
        let was_there = if order.deadline == NEVER {
            lane.plain.remove(order.seq)
        } else {
            lane.dated.remove(&(order.deadline, order.seq)).is_some()
        };
        if was_there {
            self.len -= 1;
            if lane.is_empty() {
                self.lanes.remove(&order.rank);
            }
        }
        was_there
    }

    pub(crate) fn first(&self) -> Option<Order> {
        let (&rank, lane) = self.lanes.first_key_value()?;
        if let Some((&(deadline, seq), &slot)) = lane.dated.first_key_value() {
            return Some(Order {
                rank,
                slot,
                deadline,
                seq,
            });
        }
        lane.plain.first().map(|Seat { seq, slot }| Order {
            rank,
            slot,
            deadline: NEVER,
            seq,
        })
    }

    /// All of them in order, beginning after `after`.
    pub(crate) fn iter_after(&self, after: Option<Order>) -> impl Iterator<Item = Order> {
        let from = after.map_or(0, |after| after.rank);
        self.lanes.range(from..).flat_map(move |(&rank, lane)| {
            let (deadline, seq) = match after {
                Some(after) if after.rank == rank => (after.deadline, after.seq),
                _ => (i64::MIN, i64::MIN),
            };
            let dated = lane
                .dated
                .range((
                    std::ops::Bound::Excluded((deadline, seq)),
                    std::ops::Bound::Unbounded,
                ))
                .map(move |(&(deadline, seq), &slot)| Order {
                    rank,
                    slot,
                    deadline,
                    seq,
                });
            let seq = if deadline == NEVER { seq } else { i64::MIN };
            dated.chain(lane.plain.iter_after(seq).map(move |Seat { seq, slot }| Order {
                rank,
                slot,
                deadline: NEVER,
                seq,
            }))
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Order> {
        self.iter_after(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn order(rank: u32, deadline: i64, seq: i64) -> Order {
        Order {
            rank,
            slot: u32::try_from(seq).expect("small"),
            deadline,
            seq,
        }
    }

    proptest! {
        #[test]
        fn a_line_is_a_sorted_set(
            steps in proptest::collection::vec((0..3_u32, prop_oneof![3 => Just(NEVER), 1 => 0..3_i64], 0..2_000_i64, 0..3_u8), 1..3_000)
        ) {
            let mut line = Line::default();
            let mut naive = BTreeSet::new();
            for (rank, deadline, seq, what) in steps {
                let order = order(rank, deadline, seq);
                match what {
                    0 if naive.insert((rank, deadline, seq)) => line.insert(order),
                    1 => prop_assert_eq!(line.remove(&order), naive.remove(&(rank, deadline, seq))),
                    2 => if let Some(first) = naive.pop_first() {
                        let order = line.first().expect("the set has one");
                        prop_assert_eq!((order.rank, order.deadline, order.seq), first);
                        prop_assert!(line.remove(&order));
                    },
                    _ => {}
                }
                prop_assert_eq!(line.len(), naive.len());
            }
            let listed: Vec<_> = line.iter().map(|order| (order.rank, order.deadline, order.seq)).collect();
            prop_assert_eq!(&listed, &naive.iter().copied().collect::<Vec<_>>());
            let middle = order(1, NEVER, 1_000);
            let after: Vec<_> = line.iter_after(Some(middle)).map(|order| (order.rank, order.deadline, order.seq)).collect();
            prop_assert_eq!(after, listed.into_iter().filter(|other| *other > (1, NEVER, 1_000)).collect::<Vec<_>>());
        }

        #[test]
        fn a_long_lane_stays_sorted(seqs in Just((0..5_000_i64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut line = Line::default();
            for &seq in &seqs {
                line.insert(order(0, NEVER, seq));
            }
            prop_assert!(line.iter().map(|order| order.seq).eq(0..5_000));
            for &seq in &seqs[..2_500] {
                prop_assert!(line.remove(&order(0, NEVER, seq)));
            }
            let mut left = seqs[2_500..].to_vec();
            left.sort_unstable();
            prop_assert!(line.iter().map(|order| order.seq).eq(left));
        }
    }
}
