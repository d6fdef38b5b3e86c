//! Many hosts on a bus in memory, with delays, losses and cuts.

use std::{cmp::Reverse, collections::BTreeMap};

use super::*;

/// The time of a step.
const STEP: Duration = Duration::from_millis(10);
/// Bytes of a word on a line besides its JSON: the NATS protocol with the longest subject, and a
/// signature with its count.
const AROUND: usize = 100 + 120;

struct Node {
    id: String,
    at: String,
    table: Table,
    watch: Watch,
    listen: HashSet<String>,
    is_up: bool,
}

/// A word on its way: to whom, from whom, and whether it is a beat.
type Letter = (usize, usize, Arc<Announcement>, bool);

struct World {
    nodes: Vec<Node>,
    /// By the time of arrival, and by number.
    mail: BTreeMap<Reverse<(Instant, usize)>, Letter>,
    sent: usize,
    /// The part of the beats that is lost.
    loss: f64,
    /// The hosts before this number do not hear the others, nor these them.
    cut: Option<usize>,
    /// Bytes between the first group and the others, and words to all.
    crossed: usize,
    said: usize,
}

impl World {
    /// Makes groups of so many hosts; all know each other.
    async fn new(groups: &[usize]) -> Self {
        let now = Instant::now();
        let groups = groups.iter().enumerate();
        let ats = groups.flat_map(|(number, count)| vec![format!("S{number}"); *count]);
        let nodes = ats.map(|at| {
            let id = nkeys::KeyPair::new_server().public_key();
            let (table, watch) = (Table::new(&id), Watch::new(&id, at.clone(), now));
            Node { id, at, table, watch, listen: HashSet::new(), is_up: true }
        });
        let mut world = Self {
            nodes: nodes.collect(),
            mail: BTreeMap::new(),
            sent: 0,
            loss: 0.0,
            cut: None,
            crossed: 0,
            said: 0,
        };
        for number in 0..world.nodes.len() {
            let node = &mut world.nodes[number];
            let hello = node.watch.stamp(node.table.own_beat(), now);
            world.send(number, hello, false);
        }
        // Until all speak as seldom as they will.
        world.run(Duration::from_secs(5)).await;
        world
    }

    async fn run(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            tokio::time::advance(STEP).await;
            self.step(Instant::now());
        }
    }

    /// Runs until something holds; returns how long that took.
    async fn until(&mut self, holds: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        while !holds(&*self) {
            assert!(began.elapsed() < Duration::from_secs(60), "it never holds");
            self.run(STEP).await;
        }
        began.elapsed()
    }

    fn step(&mut self, now: Instant) {
        while let Some(entry) = self.mail.last_entry().filter(|entry| entry.key().0.0 <= now) {
            let (to, from, word, is_beat) = entry.remove();
            if self.nodes[to].is_up && self.is_joined(from, to) {
                let node = &mut self.nodes[to];
                let heard = node.table.apply(&word);
                node.watch.hear(&node.table, &word, &heard, is_beat, now);
            }
        }
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            if !node.is_up || node.watch.next() > now {
                continue;
            }
            let Turn { word, beat, listen, .. } = node.watch.turn(&node.table, now);
            node.listen = listen.unwrap_or_else(|| std::mem::take(&mut node.listen));
            self.said += usize::from(word.is_some());
            for (word, is_beat) in [(word, false), (beat, true)] {
                if let Some(word) = word {
                    self.send(number, word, is_beat);
                }
            }
        }
    }

    fn send(&mut self, from: usize, word: Announcement, is_beat: bool) {
        let bytes = serde_json::to_vec(&word).unwrap().len() + AROUND;
        let (word, mut crosses) = (Arc::new(word), false);
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            if is_beat && !self.nodes[to].listen.contains(&self.nodes[from].id) {
                continue;
            }
            crosses |= (self.nodes[to].at == "S0") != (self.nodes[from].at == "S0");
            if is_beat && rand::random::<f64>() < self.loss {
                continue;
            }
            self.sent += 1;
            let at = Instant::now() + Duration::from_millis(1 + rand::random::<u64>() % 40);
            self.mail.insert(Reverse((at, self.sent)), (to, from, Arc::clone(&word), is_beat));
        }
        self.crossed += if crosses { bytes } else { 0 };
    }

    fn is_joined(&self, a: usize, b: usize) -> bool {
        self.cut.is_none_or(|cut| (a < cut) == (b < cut))
    }

    /// Whether each host that is up takes exactly those for lost that are down or cut off from it.
    fn is_right(&self) -> bool {
        let up = self.nodes.iter().enumerate().filter(|(_, node)| node.is_up);
        up.into_iter().all(|(number, node)| {
            self.nodes.iter().enumerate().filter(|(other, _)| *other != number).all(
                |(other, peer)| {
                    let is_there = peer.is_up && self.is_joined(number, other);
                    node.table.find(&peer.id).is_some_and(|peer| peer.is_lost() != is_there)
                },
            )
        })
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_lost_who_answers() {
    for groups in [&[10][..], &[17], &[30, 30], &[1; 40]] {
        let mut world = World::new(groups).await;
        world.loss = 0.05;
        let until = Instant::now() + Duration::from_secs(90);
        while Instant::now() < until {
            world.run(STEP * 20).await;
            assert!(world.is_right(), "{groups:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_host_is_lost_to_all_within_three_seconds_and_back_at_once() {
    for groups in [&[10][..], &[30, 30], &[1; 40], &[40, 2, 1]] {
        let mut world = World::new(groups).await;
        for number in [0, world.nodes.len() - 1] {
            world.nodes[number].is_up = false;
            let took = world.until(World::is_right).await;
            assert!(took <= Duration::from_millis(3100), "{took:?} of {groups:?}");
            world.nodes[number].is_up = true;
            let took = world.until(World::is_right).await;
            assert!(took <= Duration::from_millis(1500), "{took:?} of {groups:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_whose_calls_got_no_answer_is_lost_or_back_soon() {
    let mut world = World::new(&[20, 20]).await;
    let lose = |world: &World, number: usize| {
        let id = &world.nodes[number].id;
        assert!(world.nodes[30].table.find(id).unwrap().lose());
    };
    lose(&world, 3);
    let took = world.until(World::is_right).await;
    assert!(took <= Duration::from_millis(400), "{took:?}: it answers");
    world.nodes[5].is_up = false;
    world.run(Duration::from_millis(200)).await;
    lose(&world, 5);
    // Only those that heard it lately wait for longer.
    world.run(Duration::from_millis(1000)).await;
    let id = world.nodes[5].id.clone();
    let misses = |node: &&Node| node.table.find(&id).is_some_and(|peer| peer.is_lost());
    assert!(world.nodes.iter().filter(misses).count() >= 30);
    let took = world.until(World::is_right).await;
    assert!(took <= Duration::from_millis(2000), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn both_sides_of_a_cut_agree_on_it_and_on_its_end_with_few_words() {
    // The groups, the hosts on one side, and the seconds that each side may need for the cut.
    for (groups, cut, seconds) in [
        (&[8][..], 4, 3),
        (&[30, 30], 30, 4),
        (&[55, 5], 55, 4),
        (&[1; 40], 20, 8),
        (&[1; 40], 37, 8),
    ] {
        let mut world = World::new(groups).await;
        (world.cut, world.said) = (Some(cut), 0);
        let took = world.until(World::is_right).await;
        assert!(took <= Duration::from_secs(seconds), "{took:?} of {groups:?} at {cut}");
        world.run(Duration::from_secs(20)).await;
        assert!(world.is_right(), "{groups:?} at {cut}");
        // Twenty seconds with a word of each a second would be more.
        let hosts = world.nodes.len();
        assert!(hosts <= FEW || world.said <= 12 * hosts, "{} words of {groups:?}", world.said);
        (world.cut, world.said) = (None, 0);
        let took = world.until(World::is_right).await;
        assert!(took <= Duration::from_secs(4), "{took:?} of {groups:?} after {cut}");
        world.run(Duration::from_secs(5)).await;
        assert!(hosts <= FEW || world.said <= 5 * hosts, "{} words of {groups:?}", world.said);
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_to_many_hosts_carries_less_than_three_kilobytes_a_second() {
    for groups in [&[50, 50][..], &[1; 100], &[95, 5]] {
        let mut world = World::new(groups).await;
        // Their first words come together; the next ones are spread.
        world.run(Duration::from_secs(32)).await;
        world.crossed = 0;
        world.run(Duration::from_secs(40)).await;
        let rate = world.crossed / 40;
        assert!((500..=3000).contains(&rate), "{rate} bytes a second of {groups:?}");
    }
}
