//! What a run of the mesh has shown.

use super::{
    shard::Shard,
    world::{AT_ONCE, World},
};
use crate::{
    audience::Audience,
    engine::{Micros, NodeId, SECOND},
    figures::{Figures, jain},
    plan::Part,
};

impl World<'_> {
    pub(super) fn finish(mut self, end: Micros) -> Figures {
        let mut figures = Figures::default();
        let mut audience = std::mem::take(&mut self.shards[0].audience);
        for shard in &mut self.shards[1..] {
            audience.merge(std::mem::take(&mut shard.audience));
        }
        audience.finish(end, &mut figures);
        let (mut media, mut control, mut overhead) = (0, 0, 0);
        let mut from_source = 0;
        let (mut received, mut wasted) = (0, 0);
        for id in self.nodes() {
            let (sent, member) = (self.shard_of(id).net.sent(id), self.shard_of(id).node(id));
            let stats = member.session.core().stats();
            media += sent.media;
            control += sent.control;
            overhead += sent.control + sent.control_overhead + sent.transport;
            from_source += if member.life.part == Part::Source { stats.payload_sent } else { 0 };
            received += stats.payload_received;
            wasted += stats.wasted;
            figures.corrupt_pieces += stats.pieces_corrupt;
        }
        let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
        figures.source_copies = ratio(from_source, audience.closed_bytes());
        figures.control_share = ratio(control, media);
        figures.wire_overhead = ratio(overhead, media);
        figures.wasted_share = ratio(wasted, received);
        for shard in &self.shards {
            figures.events += shard.net.events();
            figures.corrupt_delivered += shard.corrupt_delivered;
            figures.false_bans += shard.false_bans;
            figures.victim_dials = figures.victim_dials.max(shard.victim_dials());
            for (reason, count) in &shard.hang_ups {
                *figures.hang_ups.entry(reason.clone()).or_default() += count;
            }
        }
        figures.nodes = self.nodes().count() as u64;
        self.finish_audience(end, &audience, &mut figures);
        self.finish_hostile(&mut figures);
        self.finish_past(end, &mut figures);
        if self.scenario.stream.at_once {
            figures.fluid_ratio = Some(self.fluid_ratio(&audience));
        }
        figures
    }

    fn finish_audience(&self, end: Micros, audience: &Audience, figures: &mut Figures) {
        let (mut links, mut shares) = (0, Vec::new());
        let (mut late, mut late_served) = (0, 0);
        for id in self.nodes() {
            let (net, member) = (&self.shard_of(id).net, self.shard_of(id).node(id));
            if !member.is_audience() || !net.is_alive(id) {
                continue;
            }
            figures.viewers += 1;
            figures.told += u64::from(member.told);
            links += member.session.core().link_count();
            if member.life.upload {
                let could = member.life.access.up.bytes(end - member.life.joins);
                shares.push(net.sent(id).media as f64 / could as f64);
            }
            if matches!(member.life.part, Part::LateViewer(_)) {
                late += 1;
                late_served += u64::from(audience.plays(id));
            }
        }
        figures.links_mean = links as f64 / figures.viewers.max(1) as f64;
        figures.upload_fairness = jain(shares.into_iter());
        figures.late_served = (late > 0).then(|| late_served as f64 / late as f64);
    }

    fn finish_past(&mut self, end: Micros, figures: &mut Figures) {
        let (mut firsts, mut begins) = (Vec::new(), Vec::new());
        let (mut stalls, mut stalled, mut worst) = (0, 0, 0);
        for past in self.shards.iter_mut().flat_map(Shard::past_readers) {
            past.finish(end);
            firsts.push(past.first_at.unwrap_or(end));
            begins.push(past.began_at.unwrap_or(end));
            worst = worst.max(past.stalls);
            (stalls, stalled) = (stalls + past.stalls, stalled + past.stalled);
        }
        if firsts.is_empty() {
            return;
        }
        let p95_s = |times: &mut Vec<Micros>| {
            times.sort_unstable();
            times[(times.len() * 95 / 100).min(times.len() - 1)] as f64 / SECOND as f64
        };
        figures.past_stalls = Some(stalls);
        figures.past_stalled_s = Some(stalled as f64 / SECOND as f64);
        figures.past_stalls_worst = Some(worst);
        figures.past_first_p95_s = Some(p95_s(&mut firsts));
        figures.past_begin_p95_s = Some(p95_s(&mut begins));
    }

    fn finish_hostile(&self, figures: &mut Figures) {
        let hostile = |id: &NodeId| matches!(self.shard_of(*id).node(*id).life.part, Part::Hostile(_));
        let all: Vec<NodeId> = self.nodes().filter(hostile).collect();
        if all.is_empty() {
            return;
        }
        let is_banned = |id: &&NodeId| self.shards.iter().any(|shard| shard.banned.contains(*id));
        figures.hostile_banned = Some(all.iter().filter(is_banned).count() as f64 / all.len() as f64);
        let links: usize = all.iter().map(|id| self.shard_of(*id).node(*id).links.len()).sum();
        figures.hostile_links = Some(links as f64 / all.len() as f64 / figures.links_mean.max(1.0));
    }

    /// Time until the last viewer had everything ÷ the least there could be (Kumar, Ross 2006).
    fn fluid_ratio(&self, audience: &Audience) -> f64 {
        let (mut source, mut all, mut viewers, mut complete) = (0.0, 0.0, 0.0, true);
        for id in self.nodes() {
            let member = self.shard_of(id).node(id);
            let up = member.life.access.up.0 as f64;
            all += up;
            if member.life.part == Part::Source {
                source += up;
            } else {
                viewers += 1.0;
                complete &= audience.complete(id);
            }
        }
        let bytes = audience.closed_bytes() as f64;
        let least = (bytes / source).max(viewers * bytes / all);
        let took = (audience.last_verified() - AT_ONCE) as f64 / SECOND as f64;
        if complete { took / least } else { f64::INFINITY }
    }
}
