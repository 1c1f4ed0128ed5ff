#!/bin/sh
# Class archives (JEP 350), by the names that the official image gives them: a start finds its classes parsed and
# checked, and takes half the time. A process can use one only with the class path and the collector it was made with:
# those of the start script in brokers/kafka/config.py.
set -e
cd "$(mktemp -d)"
cp=$(printf '%s:' /opt/kafka/libs/*.jar)
java_to() {
    archive=$1; shift
    exec java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData \
        -XX:ArchiveClassesAtExit="$archive" -Xlog:cds=error -Xlog:cds+dynamic=error -cp "$cp" "$@"
}
cat >node.properties <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@localhost:9093
listeners=BROKER://localhost:9092,CONTROLLERS://localhost:9093
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLERS:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLERS
log.dirs=$PWD/data
END
(java_to /opt/kafka/storage.jsa kafka.tools.StorageTool format -t bOnlyToLoadItsClassesA -c node.properties >node.log 2>&1)
java_to /opt/kafka/kafka.jsa kafka.Kafka node.properties >>node.log 2>&1 &
tries=0
until bash -c 'exec 3<>/dev/tcp/localhost/9092' 2>/dev/null; do
    tries=$((tries + 1))
    if [ $tries -gt 600 ] || ! kill -0 $!; then cat node.log; exit 1; fi
    sleep 0.2
done
sleep 2 # it listens a moment before it has loaded the last of its parts
kill $!
wait $! || true
rm -rf "$PWD"
test -s /opt/kafka/storage.jsa && test -s /opt/kafka/kafka.jsa
