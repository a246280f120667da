//! The line in front of the committer: units become durable in the order in which they come to stand in it.
//!
//! Who can wait for room does so; who cannot, because the order of two units is decided under a lock of its own, stands in
//! line at once, beyond the room if there is none.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use crate::unit::Unit;

/// A line with room for so many units.
#[expect(
    clippy::disallowed_methods,
    reason = "the room bounds it; beyond it stands only what a lock decides the order of"
)]
pub(crate) fn line(room: usize) -> (Entry, Line) {
    let (units, waiting) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(room));
    let entry = Entry {
        units,
        room: Arc::clone(&room),
    };
    (entry, Line { waiting, room })
}

/// Where units come in. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    units: mpsc::UnboundedSender<Placed>,
    room: Arc<Semaphore>,
}

/// Where they come out.
#[derive(Debug)]
pub(crate) struct Line {
    waiting: mpsc::UnboundedReceiver<Placed>,
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct Placed {
    unit: Unit,
    /// Whether it takes up room.
    counted: bool,
}

impl Entry {
    /// Waits for room. Gives the unit back when nobody takes units any more.
    ///
    /// # Cancel safety
    /// Dropped while there is no room, the unit is dropped.
    pub(crate) async fn send(&self, unit: Unit) -> Result<(), Unit> {
        let Ok(permit) = self.room.acquire().await else {
            return Err(unit);
        };
        permit.forget();
        self.place(Placed { unit, counted: true })
    }

    /// Stands in line at once. Gives the unit back when nobody takes units any more.
    pub(crate) fn push(&self, unit: Unit) -> Result<(), Unit> {
        let counted = self.room.try_acquire().map(tokio::sync::SemaphorePermit::forget);
        self.place(Placed {
            unit,
            counted: counted.is_ok(),
        })
    }

    fn place(&self, placed: Placed) -> Result<(), Unit> {
        self.units.send(placed).map_err(|unplaced| unplaced.0.unit)
    }
}

impl Line {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds up to `max` units to `units`, and waits for the first. None come when there is no entry any more.
    ///
    /// # Cancel safety
    /// May be dropped at any time: nothing is taken then.
    pub(crate) async fn recv_many(&mut self, units: &mut Vec<Unit>, max: usize) -> usize {
        let mut placed = Vec::with_capacity(max.min(self.waiting.len().max(1)));
        let received = self.waiting.recv_many(&mut placed, max).await;
        let counted = placed.iter().filter(|placed| placed.counted).count();
        units.extend(placed.into_iter().map(|placed| placed.unit));
        self.room.add_permits(counted);
        received
    }

    /// The next unit, if one waits.
    pub(crate) fn try_recv(&mut self) -> Option<Unit> {
        let placed = self.waiting.try_recv().ok()?;
        self.room.add_permits(usize::from(placed.counted));
        Some(placed.unit)
    }

    /// Takes no more units; what waits can still be received.
    pub(crate) fn close(&mut self) {
        self.waiting.close();
        self.room.close();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_cannot_wait_stands_in_line_where_there_is_no_room() {
        let (entry, mut line) = line(2);
        for _ in 0..2 {
            assert!(entry.send(Unit::new()).now_or_never().is_some());
        }
        assert!(entry.send(Unit::new()).now_or_never().is_none());
        assert!(entry.push(Unit::new()).is_ok());
        let mut units = Vec::new();
        assert_eq!(line.recv_many(&mut units, 10).await, 3);
        // The one beyond the room left none behind.
        for _ in 0..2 {
            assert!(entry.send(Unit::new()).now_or_never().is_some());
        }
        assert!(entry.send(Unit::new()).now_or_never().is_none());
        assert!(line.try_recv().is_some());
        assert!(entry.push(Unit::new()).is_ok());
        assert!(entry.send(Unit::new()).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_closed_line_sends_everybody_away_and_can_be_emptied() {
        let (entry, mut line) = line(1);
        entry.push(Unit::new()).expect("there is room");
        let mut waiting = std::pin::pin!(entry.send(Unit::new()));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        line.close();
        assert!(waiting.await.is_err(), "nobody takes it any more");
        assert!(entry.push(Unit::new()).is_err());
        assert!(line.try_recv().is_some());
        assert!(line.try_recv().is_none());
    }
}
