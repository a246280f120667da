//! The space between two tokens on one line.

use super::shape::{Group, Pipe, Shape, ends_operand};
use super::token::{Kind, Token};

/// Whether a space stands between two tokens that are neighbors in a group.
pub(super) fn space(tokens: &[Token<'_>], shape: &Shape, left: usize, right: usize, group: Group) -> bool {
    let (a, b) = (&tokens[left], &tokens[right]);
    if a.is_comment() || b.is_comment() {
        return true;
    }
    let tight_after = a.kind == Kind::Sign && matches!(a.text, "." | "?." | "::");
    let tight_before = b.kind == Kind::Sign && matches!(b.text, "." | "?." | "::" | ":" | "," | ";" | "?");
    if tight_after || tight_before {
        return false;
    }
    if shape.prefix[left] {
        return after_prefix(a, b);
    }
    if is_range(a) || is_range(b) {
        return a.kind == Kind::Number && a.text.ends_with('.');
    }
    if shape.pipe[left] == Pipe::Opening || shape.pipe[right] == Pipe::Closing {
        return false;
    }
    // `name!(…)` is one call.
    if b.is_sign("!") && !shape.prefix[right] {
        return b.apart;
    }
    if a.is_sign("!") {
        return false;
    }
    if b.kind == Kind::Open && matches!(b.text, "(" | "[" | "?[") && ends_operand(tokens, left, group) {
        return a.text == "}" && b.apart;
    }
    let is_operand = |token: &Token<'_>| matches!(token.kind, Kind::Name | Kind::Number | Kind::Text);
    if is_operand(a) && is_operand(b) {
        return b.apart;
    }
    true
}

fn is_range(token: &Token<'_>) -> bool {
    token.kind == Kind::Sign && matches!(token.text, ".." | "..=")
}

/// A sign before its operand stands close to it, unless that would make another token of the two: the script language
/// reads `-1.abs()` as another thing than `- 1.abs()`.
fn after_prefix(sign: &Token<'_>, operand: &Token<'_>) -> bool {
    let harmless = match operand.kind {
        Kind::Name => sign.text != "!" || operand.text != "in",
        Kind::Open => true,
        _ => false,
    };
    !harmless && operand.apart
}
