//! Relays: followers that others pull from. Whatever happens to one, its followers pull from the
//! next upstream, delete nothing that is at the source, and take it up again.

use super::*;

/// A relay's own rsync daemon.
struct Served {
    rsyncd: Rsyncd,
    _work: TempDir,
}

/// Relays first, then their followers. Dropped in this order.
struct Tiers {
    world: World,
    served: Vec<Served>,
}

impl Tiers {
    /// So many relays, and leaves that prefer them in turn.
    fn new(fs: Fs, relays: usize, leaves: usize) -> Run<Tiers> {
        let mut tiers = Tiers { world: World::new(fs, 0)?, served: Vec::new() };
        tiers.world.keep();
        for _ in 0..relays {
            tiers.relay(&[])?;
        }
        for n in 0..leaves {
            tiers.leaf(&[n % relays]);
        }
        Ok(tiers)
    }

    fn place(&self, relay: usize) -> String {
        self.served[relay].rsyncd.url("copy")
    }

    fn upstreams(&self, relays: &[usize]) -> Vec<String> {
        relays.iter().map(|n| self.place(*n)).chain([self.world.rsyncd.url("web")]).collect()
    }

    /// One more relay, which prefers these relays.
    fn relay(&mut self, above: &[usize]) -> Run<()> {
        let work = fs::work_dir();
        let rsyncd = Rsyncd::start(work.path(), &[("copy".to_owned(), work.path().to_owned())])?;
        self.served.push(Served { rsyncd, _work: work });
        let n = self.world.followers.len();
        let (upstreams, serve) = (self.upstreams(above), self.served[n].rsyncd.url("copy"));
        self.world.join_by(n, &upstreams, Some(&serve), |_| {});
        self.serve(n, self.world.followers[n].dir.root().to_owned());
        Ok(())
    }

    fn leaf(&mut self, relays: &[usize]) {
        let (n, upstreams) = (self.world.followers.len(), self.upstreams(relays));
        self.world.join_by(n, &upstreams, None, |_| {});
    }

    /// What the relay's module leads to from now on.
    fn serve(&mut self, relay: usize, dir: PathBuf) {
        let rsyncd = &mut self.served[relay].rsyncd;
        rsyncd.remove("copy");
        rsyncd.add("copy", dir);
    }

    /// How often leaves have pulled from the relay.
    fn pulls(&self, relay: usize) -> usize {
        self.served[relay].rsyncd.connections()
    }

    /// A change that is pulled, however small changes travel.
    fn large(&self) {
        self.world.src.write("large", [fastrand::u8(..)].repeat(300 << 10));
    }

    #[track_caller]
    fn check(&self) {
        self.large();
        self.world.check_but(&|path| path.starts_with(".fansync"));
    }

    /// Changes and checks until this follower pulls from the relay again.
    #[track_caller]
    fn is_taken_up_again(&mut self, relay: usize) {
        let before = self.pulls(relay);
        for n in 0..100 {
            self.world.src.write("again", format!("{n}").as_bytes());
            self.check();
            if self.pulls(relay) > before {
                return;
            }
        }
        panic!("no follower pulls from relay {relay} any more");
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("followers_of_relays_pull_from_them", ON, |fs| {
            let mut t = Tiers::new(fs, 2, 4)?;
            t.check();
            let before = [t.pulls(0), t.pulls(1)];
            for _ in 0..5 {
                t.world.churn(20);
                t.check();
            }
            t.world.barrier("relays");
            for (relay, before) in before.into_iter().enumerate() {
                assert!(t.pulls(relay) > before, "no follower pulls from relay {relay}");
            }
            for (n, leaf) in t.world.followers[2..].iter().enumerate() {
                assert_eq!(leaf.daemon.target_status("upstream").url, t.place(n % 2), "{} prefers another", leaf.name);
                assert!(!leaf.dir.has(".fansync/relay"), "what is a relay's own is not copied");
            }
            // A leaf that is frozen is no relay.
            t.world.followers[2].daemon.freeze();
            t.world.churn(10);
            t.world.barrier("relays");
            assert_ne!(t.world.flush("all", Duration::from_millis(200)).code, 0, "a leaf is frozen");
            t.world.followers[2].daemon.thaw();
            t.check();
            Ok(())
        }),
        case("a_relay_that_is_killed_is_passed_over", ON, |fs| {
            let mut t = Tiers::new(fs, 1, 2)?;
            t.world.churn(CHURN);
            t.check();
            t.world.followers[0].daemon.kill();
            for _ in 0..3 {
                t.world.churn(CHURN / 3);
                t.large();
                t.world.barrier("f1,f2");
            }
            t.world.follower_says(1, "the relay has reported nothing");
            t.world.followers[0].restart();
            t.check();
            t.is_taken_up_again(0);
            t.world.follower_says(1, "the relay reports again");
            Ok(())
        }),
        case("a_relay_that_is_frozen_is_passed_over", ON, |fs| {
            let mut t = Tiers::new(fs, 1, 2)?;
            t.check();
            t.world.followers[0].daemon.freeze();
            t.world.churn(CHURN);
            t.large();
            t.world.barrier("f1,f2");
            t.world.followers[0].daemon.thaw();
            t.check();
            t.is_taken_up_again(0);
            Ok(())
        }),
        case("a_relay_whose_module_is_empty_deletes_nothing", ON, |fs| {
            let mut t = Tiers::new(fs, 1, 1)?;
            t.world.src.mkdir("many");
            (0..50).for_each(|n| t.world.src.write(format!("many/{n}"), b"to be kept"));
            t.check();
            let empty = t.world.work.path().join("empty");
            std::fs::create_dir(&empty).expect("it can be made");
            let full = t.world.followers[0].dir.root().to_owned();
            t.serve(0, empty);
            (0..20).for_each(|n| t.world.src.remove(format!("many/{n}")));
            t.check();
            t.world.follower_says(1, "it is not the tree that the feed is of");
            assert!((20..50).all(|n| t.world.followers[1].dir.has(format!("many/{n}"))));
            t.serve(0, full);
            t.is_taken_up_again(0);
            Ok(())
        }),
        case("a_relay_whose_directory_is_replaced_fills_it_unseen", ON, |fs| {
            let mut t = Tiers::new(fs, 1, 2)?;
            t.world.src.mkdir("many");
            (0..200).for_each(|n| t.world.src.write(format!("many/{n}"), b"to be kept"));
            t.check();
            let dir = t.world.followers[0].dir.root().to_owned();
            std::fs::rename(&dir, dir.with_extension("gone")).expect("it can be renamed");
            std::fs::create_dir(&dir).expect("it can be made");
            for n in 0..10 {
                t.world.src.remove(format!("many/{n}"));
                t.world.churn(5);
                t.world.daemon.flush(None);
                let all = |leaf: &Follower| (10..200).all(|n| leaf.dir.has(format!("many/{n}")));
                assert!(t.world.followers[1..].iter().all(all), "a leaf lost what is at the source");
            }
            t.check();
            t.world.follower_says(0, "the directory is another one than before");
            t.is_taken_up_again(0);
            Ok(())
        }),
        case("links_to_relays_are_cut", ON, |fs| {
            let mut t = Tiers::new(fs, 2, 4)?;
            t.check();
            for n in 0..4 {
                t.world.churn(CHURN / 2);
                t.served[n % 2].rsyncd.stop();
                t.world.churn(CHURN / 2);
                t.check();
                t.served[n % 2].rsyncd.restart();
            }
            t.check();
            Ok(())
        }),
        case("relays_of_relays_and_relays_of_each_other", ON, |fs| {
            let mut t = Tiers::new(fs, 1, 0)?;
            t.relay(&[0])?;
            t.leaf(&[1, 0]);
            for _ in 0..3 {
                t.world.churn(CHURN / 3);
                t.check();
            }
            assert_eq!(t.world.followers[1].daemon.target_status("upstream").url, t.place(0));
            assert_eq!(t.world.followers[2].daemon.target_status("upstream").url, t.place(1));
            // The first one prefers the second one from now on.
            let (above, serve) = (t.upstreams(&[1]), t.place(0));
            t.world.prefers(0, &above, Some(&serve));
            for _ in 0..5 {
                t.world.churn(CHURN / 3);
                t.check();
            }
            Ok(())
        }),
        case("who_takes_a_relay_for_the_source_finds_out", ON, |fs| {
            let mut t = Tiers::new(fs, 1, 0)?;
            t.check();
            // No report of it is kept.
            t.world.followers[0].daemon.freeze();
            t.world.daemon.kill();
            t.world.nats.kill();
            std::fs::remove_dir_all(t.world.nats.store()).expect("the store can be removed");
            t.world.nats.restart();
            t.world.restart_source();
            t.world.src.write("top", b"while the relay is frozen");
            t.world.daemon.flush(None);
            let place = t.place(0);
            t.world.join_by(1, &[place], None, |_| {});
            t.world.follower_says(1, "this upstream is a relay");
            assert!(!t.world.followers[1].dir.has("top"), "nothing is pulled that the relay may not hold");
            t.world.followers[0].daemon.thaw();
            t.check();
            Ok(())
        }),
        case("everything_is_killed_at_random_with_relays", ON, |fs| {
            let seeds = std::env::var("FANSYNC_TEST_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
            for seed in 0..seeds {
                let mut t = Tiers::new(fs, 2, 3)?;
                let _seed = Note(format!("seed {seed}\n"));
                t.world.random = fastrand::Rng::with_seed(seed);
                for _ in 0..12 {
                    t.world.churn(CHURN / 2);
                    let (n, relay) = (t.world.random.usize(..5), t.world.random.usize(..2));
                    match t.world.random.u8(..6) {
                        0 => t.world.nats.restart(),
                        1 => t.world.rsyncd.restart(),
                        2 => t.world.restart_source(),
                        3 => t.served[relay].rsyncd.restart(),
                        4 => t.world.followers[relay].restart(),
                        _ => t.world.followers[n].restart(),
                    }
                }
                t.world.churn(CHURN);
                t.check();
            }
            Ok(())
        }),
    ]
}
