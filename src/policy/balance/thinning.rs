//! Lets endpoints that warm up pass some of their turns on, for policies that choose by turn or by chance.

use super::{Candidate, Choice};

/// Turns that may be passed on before one is taken as it is: if everybody warms up, nobody is spared.
const PASSES: usize = 4;

/// What `draw` chooses, or with the probability that a ramp leaves over what it chooses next.
pub(super) fn thinned<C: Candidate>(
    choice: &Choice<'_, C>,
    rng: &mut fastrand::Rng,
    mut draw: impl FnMut(&mut fastrand::Rng) -> Option<usize>,
) -> Option<usize> {
    for _ in 0..PASSES {
        let index = draw(rng)?;
        let ramp = choice.candidates.get(index).map_or(1.0, |candidate| candidate.ramp(choice.now));
        if ramp >= 1.0 || rng.f32() < ramp {
            return Some(index);
        }
    }
    draw(rng)
}

#[cfg(test)]
mod tests {
    use crate::{
        policy::balance::{BalanceParams, Balancer, Candidate},
        types::Mono,
    };

    struct Warming(f32);

    impl Candidate for Warming {
        fn eligible(&self, _now: Mono) -> bool {
            true
        }

        fn weight(&self) -> u32 {
            1
        }

        fn in_flight(&self) -> u32 {
            0
        }

        fn hash_identity(&self) -> &str {
            "one"
        }

        fn cost(&self, _now: Mono) -> f32 {
            1.0
        }

        fn ramp(&self, _now: Mono) -> f32 {
            self.0
        }
    }

    #[test]
    fn who_warms_up_gets_about_its_part_of_a_share_and_the_others_the_rest() {
        for params in [BalanceParams::RoundRobin, BalanceParams::WeightedRoundRobin, BalanceParams::Random] {
            let candidates = [Warming(0.2), Warming(1.0), Warming(1.0), Warming(1.0)];
            let balancer = Balancer::new(&params, &candidates, 1);
            let mut rng = fastrand::Rng::with_seed(7);
            let picks = (0..10_000)
                .filter(|_| balancer.pick(&candidates, &[], None, Mono::ZERO, &mut rng) == Some(0));
            // 0.2 of 3.2 shares.
            let count = picks.count();
            assert!((500..750).contains(&count), "{params:?}: {count}");
        }
    }

    #[test]
    fn if_everybody_warms_up_somebody_is_picked() {
        let candidates = [Warming(0.1), Warming(0.1)];
        let balancer = Balancer::new(&BalanceParams::RoundRobin, &candidates, 1);
        let mut rng = fastrand::Rng::with_seed(7);
        assert!((0..1000).all(|_| balancer.pick(&candidates, &[], None, Mono::ZERO, &mut rng).is_some()));
    }
}
