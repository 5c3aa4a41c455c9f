//! Origins that are host names.

use super::*;
use lb_core::model::{DirectOrigin, Host, RecordType};

#[test]
fn an_application_leads_to_a_host_name_where_no_load_balancer_has_the_name() {
    let mut world = World::new(FILE);
    let origins = |world: &World| {
        let mut applications = world.compiled.config.applications.iter();
        let application = applications.find(|application| application.name == "db");
        application.unwrap().destination.clone()
    };
    let body = json!({
        "protocol": "tcp/5432",
        "dns": {"name": "db"},
        "origin_dns": {"name": "db.example.com", "ttl": 1200, "type": "A"},
        "origin_port": 5433,
    });
    let made = world.create(Kind::Application, body.clone());
    assert_eq!(made["origin_dns"]["name"], "db.example.com");
    let host = DirectOrigin {
        address: Host::Name("db.example.com".to_owned()),
        record_type: RecordType::A,
        port: 5433,
    };
    assert_eq!(origins(&world), Destination::Direct(vec![host]));
    for (change, code, message, pointer) in [
        (
            json!({"origin_dns": {"name": "db.example.com", "type": "SRV"}}),
            11001,
            "origin_dns.type: SRV records are not looked up (name the host itself, and its port with `origin_port`)",
            "/origin_dns/type",
        ),
        (
            json!({"origin_dns": {"name": "-db.example.com"}}),
            11001,
            "origin_dns.name: \"-db.example.com\" has a label that begins or ends with `-`",
            "/origin_dns/name",
        ),
    ] {
        let merge = Action::Merge(id(&made), fields(change));
        let told = world.refused(Kind::Application, merge);
        assert_eq!(
            told,
            (400, vec![(code, message.to_owned(), Some(pointer.to_owned()))])
        );
    }
    // A load balancer of that name comes before the host.
    let pool = world.create(
        Kind::Pool,
        json!({"name": "p", "origins": [{"name": "a", "address": "a.example.com", "port": 80}]}),
    );
    let address = &world.compiled.config.pool("p").unwrap().origins[0].address;
    assert_eq!(*address, Host::Name("a.example.com".to_owned()));
    world.create(
        Kind::LoadBalancer,
        json!({"name": "db.example.com", "default_pools": [id(&pool)], "fallback_pool": id(&pool)}),
    );
    assert_eq!(
        origins(&world),
        Destination::LoadBalancer("db.example.com".to_owned())
    );
    // Names of hosts are the same in any case, and with a final dot.
    let made = world.create(
        Kind::Application,
        json!({"protocol": "tcp/80", "dns": {"name": "www"}, "origin_dns": {"name": "DB.example.com."}}),
    );
    assert_eq!(made["origin_dns"]["name"], "db.example.com");
    let again = json!({"name": "Db.Example.com", "default_pools": [id(&pool)], "fallback_pool": id(&pool)});
    let (status, reasons) = world.refused(Kind::LoadBalancer, Action::Create(fields(again)));
    assert_eq!((status, reasons[0].0), (400, 1003));
    assert!(
        reasons[0]
            .1
            .contains("`db.example.com` is already the name of the load balancer"),
        "{reasons:?}"
    );
}
