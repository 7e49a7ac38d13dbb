//! Metrics in pages that one core writes and anybody reads.
//!
//! A core finds a series by its labels once ([`CoreMetrics::series`]) and then only stores into its numbers:
//! relaxed, without read-modify-write, because nobody else writes them. A scrape reads all pages and adds up;
//! a page's mutex is taken by the core only when a series is new, by the scrape only to fetch those it has not
//! seen, so a scrape never slows requests.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;
use smallvec::SmallVec;

use super::families::{Buckets, FAMILIES, Family, FamilyId, Kind, LATENCY_BUCKETS_MS, Told};
use super::tallies::{Tallies, Tally};
use crate::limits;

/// One core's numbers. When the core ends, at a reload, the next one goes on with them.
#[derive(Debug, Default)]
pub struct Page {
    /// The fixed ones.
    pub tallies: Tallies,
    shown: Mutex<Shown>,
    /// A core writes it.
    taken: AtomicBool,
}

/// The series of one page, and what they were made for.
#[derive(Debug, Default, Clone)]
pub(super) struct Shown {
    pub(super) shape: Arc<Shape>,
    pub(super) series: Vec<Arc<Series>>,
    /// How many have taken the place of an expired one.
    replaced: u64,
}

impl Page {
    /// Adds the series that are not in `seen` yet. Those of another shape are gone, and expired ones whose place another
    /// has taken.
    pub(super) fn fetch(&self, seen: &mut Shown) {
        let all = self.shown();
        if !Arc::ptr_eq(&seen.shape, &all.shape) || seen.replaced != all.replaced {
            *seen = Shown { shape: all.shape.clone(), series: Vec::new(), replaced: all.replaced };
        }
        seen.series.extend(all.series.iter().skip(seen.series.len()).cloned());
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line of numbers: a family with values for its labels.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) family: FamilyId,
    pub(super) labels: Box<[Box<str>]>,
    /// Counter: the number. Histogram: one for each bucket and one above all, then the sum's `f64` bits.
    pub(super) values: Box<[AtomicU64]>,
    /// When it was last written, by the core's clock.
    pub(super) used_ms: AtomicU64,
    /// Unused for longer, its numbers begin anew and its place is free for another. A gauge says what is there now: it
    /// never expires.
    expire_ms: u64,
    /// How many were at its place before it.
    generation: u32,
}

impl Series {
    fn has_expired(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.used_ms.load(Relaxed)) > self.expire_ms
    }

    /// It is about to be written.
    fn touch(&self, now_ms: u64) {
        if self.has_expired(now_ms) {
            self.values.iter().for_each(|value| value.store(0, Relaxed));
        }
        self.used_ms.store(now_ms, Relaxed);
    }
}

/// What is counted, as `plugin_attr.prometheus` has it. A series belongs to the shape that it was made for.
#[derive(Debug, Default, PartialEq)]
pub struct Shape {
    /// `metric_prefix`
    pub(super) prefix: String,
    families: Vec<Family>,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    shape: Mutex<Arc<Shape>>,
    pages: Mutex<Vec<Arc<Page>>>,
    began: Instant,
}

impl Shape {
    /// With `plugin_attr.prometheus`' `metric_prefix`, `default_buckets` and `metrics`.
    pub fn new(prefix: &str, buckets: Option<&[f64]>, metrics: Option<&Value>) -> Shape {
        let mut buckets = buckets.unwrap_or(&LATENCY_BUCKETS_MS).to_vec();
        buckets.sort_by(f64::total_cmp);
        buckets.dedup();
        let family = |told: &Told| {
            let extra = extra_labels(metrics, told.name);
            let builtin = told.labels.split(' ').map(str::to_owned);
            let expire = metrics.and_then(|m| m.get(told.name)?.get("expire")?.as_f64()).unwrap_or(0.0);
            Family {
                name: told.name,
                help: told.help,
                kind: told.kind,
                buckets: match told.buckets {
                    Buckets::None => Box::default(),
                    Buckets::Configured => buckets.as_slice().into(),
                    Buckets::Fixed(fixed) => fixed.into(),
                },
                labels: builtin.chain(extra.iter().map(|(label, _)| label.clone())).collect(),
                extra: extra.into_iter().map(|(_, variable)| variable).collect(),
                expire_ms: (expire.max(0.0) * 1000.0) as u64,
            }
        };
        Shape { prefix: prefix.to_owned(), families: FAMILIES.iter().map(family).collect() }
    }

    /// The family of an id.
    pub fn family(&self, id: FamilyId) -> &Family {
        &self.families[usize::from(id.0)]
    }

    fn expires(&self) -> bool {
        self.families.iter().any(|family| family.expire_ms > 0)
    }

    pub(super) fn families(&self) -> impl Iterator<Item = (FamilyId, &Family)> {
        self.families.iter().enumerate().map(|(i, family)| (FamilyId(i as u16), family))
    }
}

impl Metrics {
    /// Of this shape.
    pub fn new(shape: Shape) -> Arc<Metrics> {
        Arc::new(Metrics { shape: Mutex::new(shape.into()), pages: Mutex::default(), began: Instant::now() })
    }

    /// Takes another shape, for the cores from now on: their series begin anew. An equal one changes nothing.
    pub fn reshape(&self, shape: Shape) {
        let mut now = self.shape.lock().unwrap_or_else(PoisonError::into_inner);
        if **now != shape {
            *now = shape.into();
        }
    }

    /// What cores count that start now, and scrapes show.
    pub fn shape(&self) -> Arc<Shape> {
        self.shape.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A page for one more core: one that a core left behind, else a new one. So there are never more pages than
    /// cores were alive at once, and what was counted stays counted; series of another shape are left behind.
    pub fn core(self: &Arc<Self>) -> CoreMetrics {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        // pairs with the release in `drop`: the numbers are seen as the core before has left them
        let page = match pages.iter().find(|page| !page.taken.load(Acquire)) {
            Some(left) => left.clone(),
            None => {
                let page = Arc::new(Page::default());
                pages.push(page.clone());
                page
            }
        };
        page.taken.store(true, Relaxed);
        drop(pages);
        let wanted = self.shape();
        let mut shown = page.shown();
        if !Arc::ptr_eq(&shown.shape, &wanted) {
            *shown = Shown { shape: wanted, ..Shown::default() };
        }
        let Shown { shape, series, replaced } = shown.clone();
        drop(shown);
        let mut core = CoreMetrics {
            metrics: self.clone(),
            shape,
            page,
            series,
            index: HashMap::new(),
            hashes: Vec::new(),
            hasher: ahash::RandomState::new(),
            replaced,
            expired: Vec::new(),
            sought_ms: None,
            now_ms: 0,
        };
        core.build_index();
        core
    }

    /// The clock that says when a series was last used, the same for all cores and whoever reads them.
    pub fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// All pages, in the order of the cores.
    pub fn pages(&self) -> Vec<Arc<Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One tally, summed over all cores.
    pub fn sum(&self, tally: impl Fn(&Tallies) -> &Tally) -> u64 {
        self.pages().iter().map(|page| tally(&page.tallies).get()).sum()
    }

    /// See [`Tallies::waiting`].
    pub fn waiting(&self) -> u64 {
        self.pages().iter().map(|page| page.tallies.waiting()).sum()
    }

    /// nginx's `stub_status` text, of all cores.
    pub fn stub_status(&self) -> String {
        format!(
            "Active connections: {} \nserver accepts handled requests\n {} {} {} \nReading: {} Writing: {} \
             Waiting: {} \n",
            self.sum(|t| &t.active),
            self.sum(|t| &t.accepted),
            self.sum(|t| &t.handled),
            self.sum(|t| &t.requests),
            self.sum(|t| &t.reading),
            self.sum(|t| &t.writing),
            self.waiting()
        )
    }
}

/// `extra_labels: [{name: $variable}]`, the `$` taken off.
fn extra_labels(metrics: Option<&Value>, family: &str) -> Vec<(String, String)> {
    let list = metrics.and_then(|m| m.get(family)?.get("extra_labels")?.as_array());
    list.into_iter()
        .flatten()
        .filter_map(|item| {
            let (label, variable) = item.as_object()?.iter().next()?;
            Some((label.clone(), variable.as_str()?.trim_start_matches('$').to_owned()))
        })
        .collect()
}

/// Which series of one core. It stays good until the series has expired and another has its place: from then on it does
/// nothing ([`CoreMetrics::holds`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeriesId {
    at: u32,
    generation: u32,
}

/// One core's way to its page.
#[derive(Debug)]
pub struct CoreMetrics {
    metrics: Arc<Metrics>,
    shape: Arc<Shape>,
    page: Arc<Page>,
    series: Vec<Arc<Series>>,
    /// Series by the hash of family and labels. Labels come from the network: the hash is seeded.
    index: HashMap<u64, SmallVec<[u32; 1]>>,
    /// The hash of each series in the index.
    hashes: Vec<u64>,
    hasher: ahash::RandomState,
    /// As the page says it.
    replaced: u64,
    /// Places of series that had expired when they were last sought.
    expired: Vec<u32>,
    /// When that was.
    sought_ms: Option<u64>,
    now_ms: u64,
}

impl CoreMetrics {
    /// The fixed numbers of this core.
    pub fn tallies(&self) -> &Tallies {
        &self.page.tallies
    }

    /// All metrics of the process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What this core counts.
    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// Finds the series that the page has already by their labels.
    fn build_index(&mut self) {
        for (id, series) in self.series.iter().enumerate() {
            let hash = self.hash(series.family, &series.labels);
            self.index.entry(hash).or_default().push(id as u32);
            self.hashes.push(hash);
        }
    }

    /// Of a family and labels as a series keeps them.
    fn hash(&self, family: FamilyId, labels: &[impl Deref<Target = str>]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        family.hash(&mut hasher);
        labels.iter().for_each(|label| label.hash(&mut hasher));
        hasher.finish()
    }

    /// What [`Metrics::now_ms`] says: call it about once a second.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// The series of `family` with these label values (as many as [`Family::labels`]), made if it is new. A
    /// caller that keeps the id pays nothing for the labels. `None` when the core has all it may have, and none of them
    /// has expired.
    pub fn series(&mut self, family: FamilyId, labels: &[&[u8]]) -> Option<SeriesId> {
        let labels: SmallVec<[Cow<'_, str>; 16]> = labels.iter().map(|label| kept(label)).collect();
        let hash = self.hash(family, &labels);
        if let Some(found) = self.index.get(&hash) {
            for id in found {
                let series = &self.series[*id as usize];
                if series.family == family && same(&series.labels, &labels) {
                    return Some(SeriesId { at: *id, generation: series.generation });
                }
            }
        }
        let full = self.series.len() >= limits::METRIC_SERIES;
        let place = if full { self.expired_place() } else { None };
        if full && place.is_none() {
            self.page.tallies.refused_series.add(1);
            return None;
        }
        let at = place.unwrap_or(self.series.len() as u32);
        let generation = place.map_or(0, |at| self.series[at as usize].generation.wrapping_add(1));
        let series = Arc::new(self.fresh(family, &labels, generation));
        match place {
            Some(_) => self.replace(at, series, hash),
            None => self.push(series, hash),
        }
        self.index.entry(hash).or_default().push(at);
        Some(SeriesId { at, generation })
    }

    fn push(&mut self, series: Arc<Series>, hash: u64) {
        self.page.shown().series.push(series.clone());
        self.series.push(series);
        self.hashes.push(hash);
    }

    /// Puts a series in the place of an expired one, which nobody finds from now on.
    fn replace(&mut self, place: u32, series: Arc<Series>, hash: u64) {
        let at = place as usize;
        if let Entry::Occupied(mut found) = self.index.entry(self.hashes[at]) {
            found.get_mut().retain(|id| *id != place);
            if found.get().is_empty() {
                found.remove();
            }
        }
        self.hashes[at] = hash;
        let mut shown = self.page.shown();
        shown.series[at] = series.clone();
        shown.replaced += 1;
        self.replaced = shown.replaced;
        drop(shown);
        self.series[at] = series;
    }

    /// The place of a series that has expired. All are looked through once a tick at most, for a flood of new labels
    /// asks with every request.
    fn expired_place(&mut self) -> Option<u32> {
        let now_ms = self.now_ms;
        if self.expired.is_empty() && self.sought_ms != Some(now_ms) && self.shape.expires() {
            self.sought_ms = Some(now_ms);
            let expired = self.series.iter().enumerate().filter(|(_, series)| series.has_expired(now_ms));
            self.expired = expired.map(|(at, _)| at as u32).collect();
        }
        // what has been used again meanwhile stays
        std::iter::from_fn(|| self.expired.pop()).find(|at| self.series[*at as usize].has_expired(now_ms))
    }

    fn fresh(&self, family: FamilyId, labels: &[Cow<'_, str>], generation: u32) -> Series {
        let Family { kind, buckets, expire_ms, .. } = self.shape.family(family);
        let numbers = match kind {
            Kind::Counter | Kind::Gauge => 1,
            Kind::Histogram => buckets.len() + 2,
        };
        Series {
            family,
            labels: labels.iter().map(|value| Box::from(&**value)).collect(),
            values: (0..numbers).map(|_| AtomicU64::new(0)).collect(),
            used_ms: AtomicU64::new(self.now_ms),
            expire_ms: if *kind == Kind::Gauge || *expire_ms == 0 { u64::MAX } else { *expire_ms },
            generation,
        }
    }

    /// Changes when a series takes the place of an expired one: until then, all that were held are.
    pub fn generation(&self) -> u64 {
        self.replaced
    }

    /// Is it still the series that it was given for?
    pub fn holds(&self, id: SeriesId) -> bool {
        self.get(id).is_some()
    }

    fn get(&self, id: SeriesId) -> Option<&Series> {
        Some(&*self.series[id.at as usize]).filter(|series| series.generation == id.generation)
    }

    /// Adds to a counter.
    pub fn add(&self, id: SeriesId, n: u64) {
        let Some(series) = self.get(id) else { return };
        series.touch(self.now_ms);
        add(&series.values[0], n);
    }

    /// Takes one off a gauge.
    pub fn take_one(&self, id: SeriesId) {
        let Some(series) = self.get(id) else { return };
        let value = &series.values[0];
        value.store(value.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// Puts a value, in the unit of its buckets, into a histogram.
    pub fn observe(&self, id: SeriesId, measured: f64) {
        let Some(series) = self.get(id) else { return };
        series.touch(self.now_ms);
        let buckets = &self.shape.family(series.family).buckets;
        let bucket = buckets.iter().position(|bound| measured <= *bound).unwrap_or(buckets.len());
        add(&series.values[bucket], 1);
        let sum = &series.values[buckets.len() + 1];
        sum.store((f64::from_bits(sum.load(Relaxed)) + measured).to_bits(), Relaxed);
    }

    /// [`CoreMetrics::series`] and [`CoreMetrics::add`] in one.
    pub fn count(&mut self, family: FamilyId, labels: &[&[u8]], n: u64) {
        if let Some(id) = self.series(family, labels) {
            self.add(id, n);
        }
    }

    /// A message to control was dropped.
    pub fn dropped_messages(&mut self) {
        self.page.tallies.dropped_messages.add(1);
    }

    /// See [`Metrics::stub_status`].
    pub fn stub_status(&self) -> String {
        self.metrics.stub_status()
    }
}

/// The core ends: its connections are gone, its page is free for the next.
impl Drop for CoreMetrics {
    fn drop(&mut self) {
        let Tallies { active, reading, writing, sessions, .. } = self.tallies();
        for tally in [active, reading, writing, sessions] {
            tally.set(0);
        }
        self.page.taken.store(false, Release);
    }
}

/// Not an atomic addition: this core is the only writer.
fn add(value: &AtomicU64, n: u64) {
    value.store(value.load(Relaxed).wrapping_add(n), Relaxed);
}

/// A label's value as a series keeps it: cut, and UTF-8.
fn kept(value: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&value[..value.len().min(limits::METRIC_LABEL_BYTES)])
}

/// Whether a series carries these values.
fn same(kept: &[Box<str>], labels: &[Cow<'_, str>]) -> bool {
    kept.len() == labels.len() && kept.iter().zip(labels).all(|(kept, label)| **kept == **label)
}

#[cfg(test)]
mod tests {
    use super::super::families::{BANDWIDTH, HTTP_LATENCY, HTTP_STATUS, STREAM_ACTIVE};
    use super::*;

    const LATENCY: [&[u8]; 8] = [b"request", b"1", b"", b"", b"", b"traditional_http", b"", b""];

    #[test]
    fn a_series_is_made_once_and_its_numbers_grow() {
        let metrics = Metrics::new(Shape::new("apisix_", None, None));
        let mut core = metrics.core();
        let id = core.series(HTTP_LATENCY, &LATENCY).unwrap();
        assert_eq!(core.series(HTTP_LATENCY, &LATENCY), Some(id));
        assert_ne!(core.series(BANDWIDTH, &LATENCY), Some(id));
        for ms in [0.5, 1.0, 1.5, 70_000.0] {
            core.observe(id, ms);
        }
        let mut seen = Shown::default();
        metrics.pages()[0].fetch(&mut seen);
        let seen = seen.series;
        let values: Vec<u64> = seen[0].values.iter().map(|v| v.load(Relaxed)).collect();
        assert_eq!((values[0], values[1], values[15]), (2, 1, 1));
        assert_eq!(f64::from_bits(values[16]), 70_003.0);
    }

    #[test]
    fn a_flood_of_labels_is_bounded_and_counted() {
        let metrics = Metrics::new(Shape::new("apisix_", None, None));
        let mut core = metrics.core();
        for n in 0..limits::METRIC_SERIES as u32 + 5 {
            core.count(BANDWIDTH, &[n.to_string().as_bytes()], 1);
        }
        assert_eq!(metrics.sum(|t| &t.refused_series), 5);
        assert!(core.series(BANDWIDTH, &[b"7"]).is_some(), "those that are there go on");
        let long = vec![b'x'; limits::METRIC_LABEL_BYTES * 2];
        let mut other = metrics.core();
        let id = other.series(BANDWIDTH, &[&long, b"\xff"]);
        assert_eq!(other.series(BANDWIDTH, &[&long, b"\xff"]), id);
        assert_eq!(other.series[0].labels[0].len(), limits::METRIC_LABEL_BYTES);
    }

    #[test]
    fn an_id_whose_series_gave_way_writes_to_no_other() {
        let attr =
            serde_json::json!({"bandwidth": {"expire": 10}, "stream_active_connections": {"expire": 10}});
        let metrics = Metrics::new(Shape::new("", None, Some(&attr)));
        let mut core = metrics.core();
        let gauge = core.series(STREAM_ACTIVE, &[b"9100"]).unwrap();
        core.add(gauge, 2);
        let ids: Vec<SeriesId> = (1..limits::METRIC_SERIES)
            .map(|n| core.series(BANDWIDTH, &[n.to_string().as_bytes()]).unwrap())
            .collect();
        core.tick(10_001);
        let new = core.series(BANDWIDTH, &[b"new"]).unwrap();
        let old = *ids.iter().find(|id| id.at == new.at).unwrap();
        assert_eq!((core.holds(old), core.holds(new), core.holds(gauge)), (false, true, true));
        core.add(old, 5);
        core.observe(old, 5.0);
        core.take_one(old);
        assert_eq!(core.series[new.at as usize].values[0].load(Relaxed), 0);
        for n in 2..limits::METRIC_SERIES {
            assert!(core.series(BANDWIDTH, &[format!("new{n}").as_bytes()]).is_some());
        }
        assert_eq!(core.series(BANDWIDTH, &[b"one more"]), None, "nothing of the gauges has expired");
        core.take_one(gauge);
        assert_eq!(core.series[gauge.at as usize].values[0].load(Relaxed), 1);
        // and so on: nobody finds what has given way, whoever had the place before
        core.tick(20_002);
        for n in 1..limits::METRIC_SERIES {
            assert!(core.series(BANDWIDTH, &[format!("newest{n}").as_bytes()]).is_some());
        }
        let found: usize = core.index.values().map(SmallVec::len).sum();
        assert_eq!((found, core.hashes.len()), (limits::METRIC_SERIES, limits::METRIC_SERIES));
    }

    #[test]
    fn a_core_goes_on_with_the_page_of_one_that_ended() {
        let metrics = Metrics::new(Shape::new("apisix_", None, None));
        for _ in 0..3 {
            // at a reload the new cores are there before the old ones end
            let (mut old, mut new) = (metrics.core(), metrics.core());
            old.tallies().active.add(2);
            old.tallies().requests.add(1);
            old.count(BANDWIDTH, &LATENCY, 5);
            new.count(BANDWIDTH, &LATENCY, 5);
        }
        assert_eq!(metrics.pages().len(), 2, "it does not grow");
        assert_eq!((metrics.sum(|t| &t.requests), metrics.sum(|t| &t.active)), (3, 0));
        let counted = || {
            let mut seen = [Shown::default(), Shown::default()];
            metrics.pages().iter().zip(&mut seen).for_each(|(page, seen)| page.fetch(seen));
            let all = seen.iter().flat_map(|seen| &seen.series);
            all.map(|series| series.values[0].load(Relaxed)).collect::<Vec<u64>>()
        };
        assert_eq!(counted(), [15, 15], "one series a page, and it goes on");
        metrics.reshape(Shape::new("apisix_", None, None));
        let _same = metrics.core();
        assert_eq!(counted(), [15, 15]);
        metrics.reshape(Shape::new("other_", None, None));
        let _other = metrics.core();
        assert_eq!(counted(), [15], "the series of the core that counts otherwise begin anew");
        assert_eq!(metrics.sum(|t| &t.requests), 3, "and nothing else does");
    }

    #[test]
    fn a_series_with_a_cut_or_mended_label_is_found_again_by_the_next_core() {
        let metrics = Metrics::new(Shape::new("apisix_", None, None));
        let long = vec![b'\xff'; limits::METRIC_LABEL_BYTES * 2];
        for _ in 0..3 {
            metrics.core().count(BANDWIDTH, &[&long, b"\xff", b"1"], 5);
        }
        let mut seen = Shown::default();
        metrics.pages()[0].fetch(&mut seen);
        let numbers: Vec<u64> = seen.series.iter().map(|series| series.values[0].load(Relaxed)).collect();
        assert_eq!(numbers, [15]);
    }

    #[test]
    fn tallies_add_up_over_cores() {
        let metrics = Metrics::new(Shape::new("apisix_", None, None));
        let (a, b) = (metrics.core(), metrics.core());
        a.tallies().active.add(3);
        b.tallies().active.add(2);
        b.tallies().active.sub(1);
        b.tallies().requests.add(9);
        a.tallies().writing.add(2);
        b.tallies().sessions.add(5);
        assert_eq!(
            a.stub_status(),
            "Active connections: 4 \nserver accepts handled requests\n 0 0 9 \nReading: 0 Writing: 2 Waiting: 1 \n"
        );
    }

    #[test]
    fn extra_labels_and_expiry_come_from_the_configuration() {
        let attr =
            serde_json::json!({"http_status": {"expire": 1.5, "extra_labels": [{"addr": "$upstream_addr"}]}});
        let metrics = Shape::new("x_", Some(&[10.0, 5.0, 10.0]), Some(&attr));
        let family = metrics.family(HTTP_STATUS);
        assert_eq!((family.labels.last().unwrap().as_str(), family.labels.len()), ("addr", 12));
        assert_eq!(
            (family.extra.as_slice(), family.expire_ms),
            (["upstream_addr".to_owned()].as_slice(), 1500)
        );
        assert_eq!(&*metrics.family(HTTP_LATENCY).buckets, &[5.0, 10.0]);
    }
}
