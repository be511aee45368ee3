//! A lab in the real world: namespaces, devices, NAT and the emulator's thread.
//!
//! Rule: a [`Lab`] leaves nothing behind. What it has built goes when it is dropped, also when building failed
//! half-way; what a killed process has left goes before the next lab is built ([`cleanup::sweep`]).

pub mod cleanup;
pub mod control;
pub mod emulator;
mod error;
pub mod figures;
pub mod identity;
pub mod namespace;
mod nat;
pub mod program;
mod wiring;

pub use self::error::LabError;
use self::{
    emulator::Emulator,
    figures::Figures,
    identity::{Claim, ENV_ID, LabId},
    namespace::Namespace,
};
use crate::{
    model::network::HostIndex,
    plan::{Plan, setting::Change},
};

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    plan: Plan,
    // `None` only while the lab is built and taken down.
    emulator: Option<Emulator>,
    claim: Claim,
}

impl Lab {
    /// Builds what the plan says and starts moving packets. Sweeps up what dead labs have left first.
    pub fn build(plan: Plan) -> Result<Self, LabError> {
        program::check()?;
        cleanup::sweep()?;
        let mut lab = Self { plan, emulator: None, claim: Claim::new()? };
        let id = lab.claim.id();
        let namespaces: Vec<Namespace> =
            lab.plan.hosts.iter().flat_map(|host| wiring::namespaces(id, host)).collect();
        Namespace::create(&namespaces)?;
        let wire = |host| wiring::wire(id, host);
        let devices = lab.plan.hosts.iter().map(wire).collect::<Result<Vec<_>, _>>()?;
        let emulator = Emulator::start(lab.plan.network(), devices, lab.plan.tick);
        lab.emulator = Some(emulator.map_err(LabError::system("start the emulator"))?);
        Ok(lab)
    }

    /// Its id.
    pub fn id(&self) -> &LabId {
        self.claim.id()
    }

    /// What was built.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A host's namespace.
    pub fn namespace(&self, host: HostIndex) -> Namespace {
        self.id().namespace(&self.plan.hosts[host].name)
    }

    /// Changes conditions, from now on.
    pub fn change(&self, change: &Change) -> Result<(), LabError> {
        let emulator = self.emulator();
        let mut network = emulator.network();
        Ok(change.apply(&mut network, self.plan.hosts.len(), emulator.now())?)
    }

    /// What has happened so far.
    pub fn figures(&self) -> Figures {
        Figures::collect(&self.plan, self.id(), self.emulator())
    }

    /// Forgets the emulator's lateness so far, as before a measurement.
    pub fn reset_lateness(&self) {
        self.emulator().reset_lateness();
    }

    /// What a script is told, as environment variables; README.md lists them.
    pub fn environment(&self) -> Vec<(String, String)> {
        let names: Vec<&str> = self.plan.hosts.iter().map(|host| host.name.as_str()).collect();
        let mut variables = vec![
            (ENV_ID.to_owned(), self.id().as_str().to_owned()),
            ("NETLAB_HOSTS".to_owned(), names.join(" ")),
        ];
        for (index, host) in self.plan.hosts.iter().enumerate() {
            let name = &host.name;
            variables.extend([
                (format!("NETLAB_ADDR_{name}"), host.address.to_string()),
                (format!("NETLAB_INSIDE_{name}"), wiring::inside_address(host).to_string()),
                (format!("NETLAB_NS_{name}"), self.namespace(index).name().to_owned()),
                (format!("NETLAB_NAT_{name}"), host.nat.to_string()),
            ]);
        }
        variables
    }

    fn emulator(&self) -> &Emulator {
        match &self.emulator {
            Some(emulator) => emulator,
            None => unreachable!("`build` returns a lab only once its emulator runs"),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // First, so that it does not take its devices' going for a fault.
        self.emulator = None;
        cleanup::take_down(self.claim.id());
    }
}
