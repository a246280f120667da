//! What scripts may hold in variables, beyond the script engine's own bounds.
//!
//! The script engine bounds the sizes of lists, maps and strings. It does not bound how deep they nest, nor what functions
//! hold, and it copies and drops values by recursion: a value of a hundred thousand levels would end the process, and
//! a function that holds itself twice fills the memory in thirty steps. So a variable is looked at when it is read; what is large
//! is looked at again only after as many operations as pay for it.
//!
//! Nor does it bound what all variables hold together: that is left to the time of the section. Whoever reads a value may copy it,
//! in one operation whatever its size, so the parts that were read are told to whoever decides when to look at the clock.

use std::cell::Cell;

use rhai::{Dynamic, FnPtr};

use crate::value::VALUE_DEPTH_MAX;

/// Values of fewer parts are looked at each time.
const FEW: usize = 64;

/// So many parts are looked at for one operation, on average.
const PARTS_AN_OPERATION: u64 = 16;

/// After so many operations a value is looked at again, however large it is: each may add one level.
const OPERATIONS_MAX: u64 = 1_024;

/// Large values that were looked at.
const REMEMBERED: usize = 16;

/// So many bytes of a long text are as much work as a part.
const BYTES_A_PART: usize = 16;

/// Texts of fewer bytes are no work worth counting.
const LONG: usize = 4 << 10;

/// A large value that was looked at.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Where it lies.
    address: usize,
    /// How many parts it begins with.
    length: usize,
    /// How many it has in all.
    parts: usize,
    /// Until which operation it may be taken for looked at.
    until: u64,
}

const NOTHING: Seen = Seen {
    address: 0,
    length: 0,
    parts: 0,
    until: 0,
};

thread_local! {
    static SEEN: [Cell<Seen>; REMEMBERED] = const { [const { Cell::new(NOTHING) }; REMEMBERED] };
}

/// Forgets what other scripts held.
pub(super) fn begin() {
    SEEN.with(|seen| seen.iter().for_each(|seen| seen.set(NOTHING)));
}

/// How many parts a variable's value has, when it is large; 0 when it is not. `operations` have been used.
///
/// # Errors
/// What is wrong with the value.
pub(super) fn look(value: &Dynamic, parts_max: usize, operations: u64) -> Result<usize, String> {
    let Some((address, length)) = place(value) else {
        return Ok(text_parts(value));
    };
    let remembered = |act: &dyn Fn(&Cell<Seen>)| SEEN.with(|seen| act(&seen[(address >> 4) % REMEMBERED]));
    let known = Cell::new(0);
    if address != 0 {
        remembered(&|seen| {
            let seen = seen.get();
            if seen.address == address && seen.length == length && operations < seen.until {
                known.set(seen.parts);
            }
        });
    }
    if known.get() > 0 {
        return Ok(known.get());
    }
    let mut parts = 0;
    walk(value, 0, parts_max, &mut parts)?;
    if parts <= FEW {
        return Ok(0);
    }
    if address != 0 {
        let pays = u64::try_from(parts).unwrap_or(u64::MAX) / PARTS_AN_OPERATION;
        let until = operations + pays.min(OPERATIONS_MAX);
        let looked_at = Seen {
            address,
            length,
            parts,
            until,
        };
        remembered(&|seen| seen.set(looked_at));
    }
    Ok(parts)
}

/// What a long text is worth in parts.
fn text_parts(value: &Dynamic) -> usize {
    if !value.is_string() {
        return 0;
    }
    let bytes = value.as_immutable_string_ref().map_or(0, |text| text.len());
    if bytes < LONG { 0 } else { bytes / BYTES_A_PART }
}

/// How many parts a value has, itself one of them.
pub(super) fn parts(value: &Dynamic, parts_max: usize) -> usize {
    let mut parts = 0;
    match walk(value, 0, parts_max, &mut parts) {
        Ok(()) => parts,
        Err(_) => usize::MAX,
    }
}

/// Where the parts of a value lie, and how many it has itself; none for what has no parts.
fn place(value: &Dynamic) -> Option<(usize, usize)> {
    if value.is_array() {
        let array = value.as_array_ref().ok()?;
        Some((array.as_ptr().addr(), array.len()))
    } else if value.is_map() {
        let map = value.as_map_ref().ok()?;
        let first = map.values().next()?;
        Some((std::ptr::from_ref(first).addr(), map.len()))
    } else if value.is_fnptr() {
        Some((0, 0))
    } else {
        None
    }
}

fn walk(value: &Dynamic, depth: usize, parts_max: usize, parts: &mut usize) -> Result<(), String> {
    if depth > VALUE_DEPTH_MAX {
        return Err(format!("a value nests deeper than {VALUE_DEPTH_MAX} levels"));
    }
    *parts += 1;
    if value.is_array() {
        if let Ok(array) = value.as_array_ref() {
            for part in array.iter() {
                walk(part, depth + 1, parts_max, parts)?;
            }
        }
    } else if value.is_map() {
        if let Ok(map) = value.as_map_ref() {
            for part in map.values() {
                walk(part, depth + 1, parts_max, parts)?;
            }
        }
    } else if value.is_fnptr()
        && let Some(pointer) = value.read_lock::<FnPtr>()
    {
        for part in pointer.iter_curry() {
            walk(part, depth + 1, parts_max, parts)?;
        }
        if *parts > parts_max {
            return Err(format!(
                "too large: a function holds more than {parts_max} values"
            ));
        }
    }
    Ok(())
}
