//! Processors and memory of this worker, shared by all functions.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What one process takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Share {
    pub(crate) cpu_millis: u32,
    pub(crate) memory_bytes: u64,
}

impl Share {
    pub(crate) const fn cpu(self) -> Self {
        Self {
            cpu_millis: self.cpu_millis,
            memory_bytes: 0,
        }
    }

    pub(crate) const fn memory(self) -> Self {
        Self {
            cpu_millis: 0,
            memory_bytes: self.memory_bytes,
        }
    }

    const fn fits_in(self, other: Self) -> bool {
        self.cpu_millis <= other.cpu_millis && self.memory_bytes <= other.memory_bytes
    }
}

/// All there is and what is left of it.
#[derive(Debug)]
pub(crate) struct Slots {
    total: Share,
    free: Mutex<Share>,
    /// Woken when something was given back, or when a process changed what it does.
    pub(crate) changed: Notify,
}

impl Slots {
    pub(crate) fn new(total: Share) -> Arc<Self> {
        Arc::new(Self {
            total,
            free: Mutex::new(total),
            changed: Notify::new(),
        })
    }

    pub(crate) const fn total(&self) -> Share {
        self.total
    }

    pub(crate) fn free(&self) -> Share {
        *self.free.lock()
    }

    /// Whether `share` would ever fit.
    pub(crate) const fn could_fit(&self, share: Share) -> bool {
        share.fits_in(self.total)
    }

    pub(crate) fn fits(&self, share: Share) -> bool {
        share.fits_in(self.free())
    }

    pub(crate) fn take(self: &Arc<Self>, share: Share) -> Option<Slot> {
        let mut free = self.free.lock();
        if !share.fits_in(*free) {
            return None;
        }
        free.cpu_millis -= share.cpu_millis;
        free.memory_bytes -= share.memory_bytes;
        Some(Slot {
            slots: Arc::clone(self),
            share,
        })
    }
}

/// A share in somebody's hands; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    share: Share,
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut free = self.slots.free.lock();
            free.cpu_millis += self.share.cpu_millis;
            free.memory_bytes += self.share.memory_bytes;
        }
        self.slots.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_given_back_when_dropped_and_never_given_twice() {
        let slots = Slots::new(Share {
            cpu_millis: 2_000,
            memory_bytes: 100,
        });
        let share = Share {
            cpu_millis: 1_500,
            memory_bytes: 60,
        };
        let first = slots.take(share).expect("free");
        assert!(slots.take(share).is_none());
        assert!(slots.fits(Share {
            cpu_millis: 500,
            memory_bytes: 40
        }));
        drop(first);
        assert!(slots.fits(share));
        assert!(!slots.could_fit(Share {
            cpu_millis: 2_001,
            memory_bytes: 0
        }));
    }
}
