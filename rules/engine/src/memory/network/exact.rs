//! Sums of fractions without rounding: a fixed-point number as wide as all of `f64` (Kulisch's accumulator).
//!
//! What is added can be taken away again, in any order, and nothing remains; the sum is rounded once, when it is asked
//! for. So a sum depends on its numbers only, and not on their order or on what was there before.

/// Bits of a digit. Digits are kept in 64 bits: carries may wait.
const BITS: u32 = 32;

/// From 2^-1074 to 2^1024, and 64 bits more for 2^64 numbers.
const DIGITS: usize = 69;

/// So many additions fit between two carries.
const WAITING_MAX: u32 = 1 << 29;

/// A sum of fractions.
#[derive(Debug, Clone)]
pub(super) struct Exact {
    /// Of 2^(32 · place - 1074).
    digits: Box<[i64; DIGITS]>,
    waiting: u32,
    /// Numbers that have no place among the digits.
    not_numbers: u32,
    infinities: [u32; 2],
}

impl Default for Exact {
    fn default() -> Self {
        Self {
            digits: Box::new([0; DIGITS]),
            waiting: 0,
            not_numbers: 0,
            infinities: [0, 0],
        }
    }
}

impl Exact {
    /// Adds a number, or takes one away that was added.
    pub(super) fn add(&mut self, number: f64, adds: bool) {
        let count = |count: &mut u32| *count = if adds { *count + 1 } else { count.saturating_sub(1) };
        if number.is_nan() {
            return count(&mut self.not_numbers);
        }
        if number.is_infinite() {
            return count(&mut self.infinities[usize::from(number < 0.0)]);
        }
        let bits = number.to_bits();
        let exponent = u32::try_from(bits >> 52 & 0x7ff).unwrap_or(0);
        let fraction = bits & ((1 << 52) - 1);
        // Subnormal numbers have the exponent of the least normal ones, without the hidden bit.
        let (mantissa, shift) = if exponent == 0 {
            (fraction, 0)
        } else {
            (fraction | 1 << 52, exponent - 1)
        };
        self.add_shifted(u128::from(mantissa), shift, (number < 0.0) != adds);
    }

    /// Adds a whole number.
    pub(super) fn add_whole(&mut self, number: i128) {
        let size = number.unsigned_abs();
        // In halves, so that each fits beside the shift.
        self.add_shifted(size & u128::from(u64::MAX), 1_074, number >= 0);
        self.add_shifted(size >> 64, 1_074 + 64, number >= 0);
    }

    fn add_shifted(&mut self, mantissa: u128, shift: u32, adds: bool) {
        let mut place = (shift / BITS) as usize;
        let mut rest = mantissa << (shift % BITS);
        while rest != 0 && place < DIGITS {
            let digit = i64::try_from(rest & u128::from(u32::MAX)).unwrap_or(0);
            self.digits[place] += if adds { digit } else { -digit };
            rest >>= BITS;
            place += 1;
        }
        self.waiting += 1;
        if self.waiting >= WAITING_MAX {
            self.carry();
        }
    }

    /// Brings all digits but the last between 0 and 2^32.
    fn carry(&mut self) {
        self.waiting = 0;
        let mut carry = 0;
        let last = DIGITS - 1;
        for digit in &mut self.digits[..last] {
            let sum = *digit + carry;
            carry = sum >> BITS;
            *digit = sum & i64::from(u32::MAX);
        }
        self.digits[last] += carry;
    }

    /// The sum with a whole number, rounded to the nearest, ties to even.
    pub(super) fn rounded(&self, whole: i128) -> f64 {
        match (self.not_numbers > 0, self.infinities) {
            (false, [0, 0]) => {}
            (false, [_, 0]) => return f64::INFINITY,
            (false, [0, _]) => return f64::NEG_INFINITY,
            _ => return f64::NAN,
        }
        let mut sum = self.clone();
        sum.add_whole(whole);
        sum.carry();
        let negative = sum.digits[DIGITS - 1] < 0;
        if negative {
            sum.digits.iter_mut().for_each(|digit| *digit = -*digit);
            sum.carry();
        }
        let size = sum.size();
        if negative { -size } else { size }
    }

    /// The rounded value of digits that are carried and of no sign.
    fn size(&self) -> f64 {
        let Some(top) = self.digits.iter().rposition(|digit| *digit != 0) else {
            return 0.0;
        };
        // The first digits hold more bits than a mantissa; of the rest it counts whether there is something.
        let low = top.saturating_sub(3);
        let digits = self.digits[low..=top].iter().rev();
        let mut head = digits.fold(0_u128, |head, digit| {
            head << BITS | u128::from(digit.unsigned_abs())
        });
        if self.digits[..low].iter().any(|digit| *digit != 0) {
            head |= 1;
        }
        let exponent = i64::try_from(low).unwrap_or(0) * i64::from(BITS) - 1_074;
        rounded(head, exponent)
    }
}

/// `head` · 2^`exponent` to the nearest `f64`, ties to even.
fn rounded(head: u128, exponent: i64) -> f64 {
    let length = i64::from(u128::BITS - head.leading_zeros());
    // The last bit that a number of this size has.
    let unit = (exponent + length - 53).max(-1_074);
    let shift = unit - exponent;
    let (mut mantissa, unit) = if shift <= 0 {
        (head, exponent)
    } else {
        let shift = u32::try_from(shift).unwrap_or(u32::MAX).min(127);
        let rest = head & ((1 << shift) - 1);
        let half = 1_u128 << (shift - 1);
        let mut mantissa = head >> shift;
        if rest > half || rest == half && mantissa & 1 == 1 {
            mantissa += 1;
        }
        (mantissa, unit)
    };
    let mut unit = unit;
    if mantissa == 1 << 53 {
        mantissa >>= 1;
        unit += 1;
    }
    if mantissa == 0 {
        return 0.0;
    }
    let length = i64::from(u128::BITS - mantissa.leading_zeros());
    // Brought to 53 bits where the exponent allows.
    let up = (53 - length).min(unit + 1_074).max(0);
    let mantissa = mantissa << up;
    let unit = unit - up;
    if unit > 971 {
        return f64::INFINITY;
    }
    let bits = u64::try_from(mantissa).unwrap_or(0);
    if bits >> 52 == 0 {
        return f64::from_bits(bits);
    }
    let biased = u64::try_from(unit + 1_075).unwrap_or(0);
    f64::from_bits(bits & ((1 << 52) - 1) | biased << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of every size, from a generator of our own.
    fn numbers(count: usize, seed: u64) -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state ^ state >> 29
        };
        (0..count)
            .map(|_| f64::from_bits(next()))
            .map(|number| if number.is_finite() { number } else { 1.5 })
            .collect()
    }

    fn sum(numbers: &[f64]) -> f64 {
        let mut exact = Exact::default();
        numbers.iter().for_each(|number| exact.add(*number, true));
        exact.rounded(0)
    }

    #[test]
    fn one_number_is_its_own_sum() {
        let edges = [
            0.0,
            f64::MIN_POSITIVE,
            f64::from_bits(1),
            f64::from_bits((1 << 52) - 1),
            f64::MAX,
            f64::MIN,
            0.1,
            -0.1,
            1.0,
        ];
        for number in edges.into_iter().chain(numbers(2_000, 1)) {
            assert_eq!(sum(&[number]).to_bits(), (number + 0.0).to_bits(), "{number:e}");
        }
    }

    #[test]
    fn two_numbers_add_up_as_the_processor_adds_them() {
        let all = numbers(4_000, 2);
        for pair in all.windows(2) {
            let near = pair[0] * 1.000_000_1;
            for (a, b) in [(pair[0], pair[1]), (pair[0], near), (pair[0], -near)] {
                let expected = a + b;
                assert_eq!(
                    sum(&[a, b]).to_bits(),
                    (expected + 0.0).to_bits(),
                    "{a:e} + {b:e}"
                );
            }
        }
    }

    #[test]
    fn the_order_says_nothing_and_what_goes_leaves_nothing() {
        let all: Vec<f64> = numbers(300, 3);
        let mut exact = Exact::default();
        all.iter().for_each(|number| exact.add(*number, true));
        let sum = exact.rounded(0);
        let mut back = Exact::default();
        all.iter().rev().for_each(|number| back.add(*number, true));
        assert_eq!(back.rounded(0).to_bits(), sum.to_bits());
        exact.add(0.25, true);
        all.iter().for_each(|number| exact.add(*number, false));
        assert_eq!(exact.rounded(0).to_bits(), 0.25_f64.to_bits());
        exact.add(0.25, false);
        assert_eq!(exact.rounded(0).to_bits(), 0);
    }

    #[test]
    fn a_sum_is_rounded_once_and_whole_numbers_are_exact() {
        assert_eq!(sum(&[0.1; 10]).to_bits(), 1.0_f64.to_bits());
        assert_eq!(sum(&[1e300, 1.0, -1e300]).to_bits(), 1.0_f64.to_bits());
        let mut exact = Exact::default();
        exact.add(0.5, true);
        assert_eq!(
            exact.rounded(i128::from(i64::MAX)).to_bits(),
            9_223_372_036_854_775_808.0_f64.to_bits()
        );
        assert_eq!(exact.rounded(-1).to_bits(), (-0.5_f64).to_bits());
        assert!(sum(&[f64::MAX, f64::MAX]).is_infinite());
        exact.add(f64::INFINITY, true);
        assert_eq!(exact.rounded(0).to_bits(), f64::INFINITY.to_bits());
        exact.add(f64::NEG_INFINITY, true);
        assert!(exact.rounded(0).is_nan());
        exact.add(f64::INFINITY, false);
        exact.add(f64::NEG_INFINITY, false);
        assert_eq!(exact.rounded(0).to_bits(), 0.5_f64.to_bits());
    }
}
