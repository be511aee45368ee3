//! What a run of the mesh has shown.

use super::world::{AT_ONCE, World};
use crate::{
    engine::{Micros, NodeId, SECOND},
    figures::{Figures, jain},
    plan::Part,
};

impl World<'_> {
    pub(super) fn finish(mut self, end: Micros) -> Figures {
        let mut figures = Figures { events: self.net.events(), ..Figures::default() };
        self.audience.finish(end, &mut figures);
        let (mut media, mut control, mut overhead) = (0, 0, 0);
        let mut from_source = 0;
        let (mut received, mut wasted) = (0, 0);
        for (index, member) in self.members.iter().enumerate() {
            let sent = self.net.sent(NodeId(index as u32));
            let stats = member.core.stats();
            media += sent.media;
            control += sent.control;
            overhead += sent.control + sent.control_overhead + sent.transport;
            from_source += if member.life.part == Part::Source { stats.payload_sent } else { 0 };
            received += stats.payload_received;
            wasted += stats.wasted;
            figures.corrupt_pieces += stats.pieces_corrupt;
        }
        let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
        figures.source_copies = ratio(from_source, self.audience.closed_bytes());
        figures.control_share = ratio(control, media);
        figures.wire_overhead = ratio(overhead, media);
        figures.wasted_share = ratio(wasted, received);
        figures.corrupt_delivered = self.corrupt_delivered;
        figures.false_bans = self.false_bans;
        figures.hang_ups = std::mem::take(&mut self.hang_ups);
        figures.nodes = self.members.len() as u64;
        self.finish_audience(end, &mut figures);
        self.finish_hostile(&mut figures);
        if self.scenario.stream.at_once {
            figures.fluid_ratio = Some(self.fluid_ratio());
        }
        figures
    }

    fn finish_audience(&self, end: Micros, figures: &mut Figures) {
        let (mut links, mut shares) = (0, Vec::new());
        let (mut late, mut late_served) = (0, 0);
        for (index, member) in self.members.iter().enumerate() {
            let id = NodeId(index as u32);
            if !member.is_audience() || !self.net.is_alive(id) {
                continue;
            }
            figures.viewers += 1;
            links += member.core.link_count();
            if member.life.upload {
                let could = member.life.access.up.bytes(end - member.life.joins);
                shares.push(self.net.sent(id).media as f64 / could as f64);
            }
            if matches!(member.life.part, Part::LateViewer(_)) {
                late += 1;
                late_served += u64::from(self.audience.plays(id));
            }
        }
        figures.links_mean = links as f64 / figures.viewers.max(1) as f64;
        figures.upload_fairness = jain(shares.into_iter());
        figures.late_served = (late > 0).then(|| late_served as f64 / late as f64);
    }

    fn finish_hostile(&self, figures: &mut Figures) {
        let hostile = |index: &usize| matches!(self.members[*index].life.part, Part::Hostile(_));
        let all: Vec<usize> = (0..self.members.len()).filter(hostile).collect();
        if all.is_empty() {
            return;
        }
        let banned = all.iter().filter(|index| self.banned[**index]).count();
        figures.hostile_banned = Some(banned as f64 / all.len() as f64);
        let links: usize = all.iter().map(|index| self.members[*index].links.len()).sum();
        figures.hostile_links = Some(links as f64 / all.len() as f64 / figures.links_mean.max(1.0));
    }

    /// Time until the last viewer had everything ÷ the least there could be (Kumar, Ross 2006).
    fn fluid_ratio(&self) -> f64 {
        let (mut source, mut all, mut viewers, mut complete) = (0.0, 0.0, 0.0, true);
        for (index, member) in self.members.iter().enumerate() {
            let up = member.life.access.up.0 as f64;
            all += up;
            if member.life.part == Part::Source {
                source += up;
            } else {
                viewers += 1.0;
                complete &= self.audience.complete(NodeId(index as u32));
            }
        }
        let bytes = self.audience.closed_bytes() as f64;
        let least = (bytes / source).max(viewers * bytes / all);
        let took = (self.audience.last_verified() - AT_ONCE) as f64 / SECOND as f64;
        if complete { took / least } else { f64::INFINITY }
    }
}
