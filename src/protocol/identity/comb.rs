//! Multiplication of one point by many scalars, from a table of the point's multiples.
//!
//! A scalar has 32 digits in base 256, from -128 to 128. The table holds 1 to 128 times the point
//! for each second digit; the digits between are summed first and multiplied by 256. So a product
//! costs at most 32 additions and, for all terms of a sum together, 8 doublings, where a general
//! one has 256 doublings. A table takes 320 kB and about 0.5 ms to make.
//!
//! The time depends on the scalar: for public data only, never to sign.

use std::sync::LazyLock;

use curve25519_dalek::{
    constants::ED25519_BASEPOINT_POINT, edwards::EdwardsPoint, scalar::Scalar, traits::Identity,
};

const DIGITS: usize = 32;
/// The largest digit; smaller ones and those below zero use the same multiples.
const DIGIT_MAX: usize = 128;

/// The table of one point.
pub(super) struct Comb(Box<[EdwardsPoint]>);

impl Comb {
    /// Makes the table of a point.
    pub(super) fn new(point: &EdwardsPoint) -> Self {
        let mut multiples = Vec::with_capacity(DIGITS / 2 * DIGIT_MAX);
        let mut first = *point;
        for _ in 0..DIGITS / 2 {
            let mut multiple = first;
            for _ in 0..DIGIT_MAX {
                multiples.push(multiple);
                multiple += first;
            }
            first = times_256(&times_256(&first));
        }
        Self(multiples.into())
    }

    /// Returns the table of the generator, which all keys share.
    pub(super) fn of_generator() -> &'static Self {
        static GENERATOR: LazyLock<Comb> = LazyLock::new(|| Comb::new(&ED25519_BASEPOINT_POINT));
        &GENERATOR
    }

    fn add(&self, sum: EdwardsPoint, row: usize, digit: i16) -> EdwardsPoint {
        let multiple = usize::from(digit.unsigned_abs());
        if multiple == 0 {
            return sum;
        }
        let multiple = &self.0[row * DIGIT_MAX + multiple - 1];
        if digit > 0 { sum + multiple } else { sum - multiple }
    }
}

/// Returns the sum of points, each multiplied by its scalar.
pub(super) fn sum(terms: [(&Comb, &Scalar); 2]) -> EdwardsPoint {
    let terms = terms.map(|(comb, scalar)| (comb, digits(scalar)));
    let mut sum = EdwardsPoint::identity();
    for row in 0..DIGITS / 2 {
        for (comb, digits) in &terms {
            sum = comb.add(sum, row, digits[2 * row + 1]);
        }
    }
    sum = times_256(&sum);
    for row in 0..DIGITS / 2 {
        for (comb, digits) in &terms {
            sum = comb.add(sum, row, digits[2 * row]);
        }
    }
    sum
}

fn times_256(point: &EdwardsPoint) -> EdwardsPoint {
    // The cofactor is 8; multiplying by it is the cheapest doubling there is from outside.
    let by_64 = point.mul_by_cofactor().mul_by_cofactor();
    let by_128 = by_64 + by_64;
    by_128 + by_128
}

/// Returns the digits of a scalar, the lowest first. A reduced scalar is below 2^253, so the
/// highest digit carries nothing.
fn digits(scalar: &Scalar) -> [i16; DIGITS] {
    let mut carry = 0;
    scalar.to_bytes().map(|byte| {
        let digit = i16::from(byte) + carry;
        carry = i16::from(digit > DIGIT_MAX as i16);
        digit - 256 * carry
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Compares with the library's own multiplication.
    fn check(point: Scalar, scalars: [Scalar; 2]) {
        let point = EdwardsPoint::mul_base(&point);
        let terms = [(Comb::of_generator(), &scalars[0]), (&Comb::new(&point), &scalars[1])];
        assert_eq!(sum(terms), EdwardsPoint::mul_base(&scalars[0]) + point * scalars[1]);
    }

    #[test]
    fn products_are_those_of_the_library_at_the_edges() {
        let edges = [0, 1, 127, 128, 129, 255, 256, 32_895, 32_896, 32_897, u64::MAX];
        let edges = edges.map(Scalar::from).into_iter().flat_map(|edge| [edge, -edge]);
        for edge in edges {
            check(Scalar::from(7_u64), [edge, -edge]);
            check(edge, [Scalar::ZERO, edge]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn products_are_those_of_the_library(scalars: [[u8; 32]; 3]) {
            let [point, one, other] = scalars.map(Scalar::from_bytes_mod_order);
            check(point, [one, other]);
        }
    }
}
