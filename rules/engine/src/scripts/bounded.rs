//! Functions of the script language that would make large things before anybody looks at their size, with bounds.

use rhai::{Array, Dynamic, Engine, EvalAltResult, ImmutableString, NativeCallContext, Position};

use super::{Scripted, guard};

/// `text.replace(from, to)` in the forms of the standard library, `list.pad(length, value)` and `text.pad(length, text)`.
pub(super) fn register(engine: &mut Engine, string_bytes: usize, list_length: usize) {
    engine.register_fn(
        "pad",
        move |_: NativeCallContext<'_>, list: &mut Array, length: i64, value: Dynamic| {
            pad(list, length, value, list_length)
        },
    );
    engine.register_fn(
        "pad",
        move |_: NativeCallContext<'_>, text: &mut ImmutableString, length: i64, with: ImmutableString| {
            pad_text(text, length, &with, string_bytes)
        },
    );
    engine.register_fn(
        "replace",
        move |_: NativeCallContext<'_>,
              text: &mut ImmutableString,
              from: ImmutableString,
              to: ImmutableString| { replace(text, &from, &to, string_bytes) },
    );
    engine.register_fn(
        "replace",
        move |_: NativeCallContext<'_>, text: &mut ImmutableString, from: ImmutableString, to: char| {
            replace(text, &from, to.encode_utf8(&mut [0; 4]), string_bytes)
        },
    );
    engine.register_fn(
        "replace",
        move |_: NativeCallContext<'_>, text: &mut ImmutableString, from: char, to: ImmutableString| {
            replace(text, from.encode_utf8(&mut [0; 4]), &to, string_bytes)
        },
    );
}

fn replace(text: &mut ImmutableString, from: &str, to: &str, string_bytes: usize) -> Scripted<()> {
    if text.is_empty() {
        return Ok(());
    }
    let found = text.matches(from).count();
    let length =
        (text.len() + found.saturating_mul(to.len())).saturating_sub(found.saturating_mul(from.len()));
    if length > string_bytes {
        let what = "Length of string".to_owned();
        return Err(EvalAltResult::ErrorDataTooLarge(what, Position::NONE).into());
    }
    *text = text.replace(from, to).into();
    Ok(())
}

fn pad(list: &mut Array, length: i64, value: Dynamic, list_length: usize) -> Scripted<()> {
    let length = usize::try_from(length).unwrap_or(0);
    let Some(more) = length.checked_sub(list.len()) else {
        return Ok(());
    };
    let parts = guard::parts(&value, list_length).saturating_mul(more);
    if length > list_length || parts > list_length {
        let what = "Size of array/BLOB".to_owned();
        return Err(EvalAltResult::ErrorDataTooLarge(what, Position::NONE).into());
    }
    list.resize(length, value);
    Ok(())
}

/// Padding with nothing never ends in the standard library.
fn pad_text(text: &mut ImmutableString, length: i64, with: &str, string_bytes: usize) -> Scripted<()> {
    let Ok(length) = usize::try_from(length) else {
        return Ok(());
    };
    let mut more = String::new();
    if length <= string_bytes && !with.is_empty() {
        let lacking = length.saturating_sub(text.chars().count());
        more.extend(with.chars().cycle().take(lacking));
    }
    if length.max(text.len() + more.len()) > string_bytes {
        let what = "Length of string".to_owned();
        return Err(EvalAltResult::ErrorDataTooLarge(what, Position::NONE).into());
    }
    *text += more.as_str();
    Ok(())
}
