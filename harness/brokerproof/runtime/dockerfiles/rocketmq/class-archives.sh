#!/bin/sh
# Class archives (JEP 350): a start finds its classes parsed and checked, and takes half the time. A process can use one
# only with the class path and the collector it was made with: those of brokers/rocketmq/configuration.py.
set -e
home=$1
cd "$(mktemp -d)"
cp=$(printf '%s:' "$home"/lib/*.jar)
java_to() {
    archive=$1; shift
    exec java -Xmx256m -XX:MaxDirectMemorySize=256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData \
        -XX:ArchiveClassesAtExit="$archive" -Xlog:cds=error -Xlog:cds+dynamic=error -Duser.home="$PWD" \
        -Drmq.logback.configurationFile="$PWD/log.xml" -Dtls.server.mode=disabled -cp "$cp" "$@"
}
answers() { # PORT PID
    tries=0
    until bash -c "exec 3<>/dev/tcp/localhost/$1" 2>/dev/null; do
        tries=$((tries + 1))
        if [ $tries -gt 600 ] || ! kill -0 "$2"; then cat ./*.log; exit 1; fi
        sleep 0.2
    done
}
cat >log.xml <<END
<configuration>
  <appender name="console" class="org.apache.rocketmq.logging.ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{HH:mm:ss.SSS} %-5p %c{0} %m%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="console"/></root>
</configuration>
END
cat >broker.conf <<END
namesrvAddr=localhost:9876
brokerIP1=127.0.0.1
storePathRootDir=$PWD/store
mappedFileSizeCommitLog=16777216
timerWheelEnable=true
END
echo '{"rocketMQClusterName": "DefaultCluster", "proxyMode": "cluster", "namesrvAddr": "localhost:9876"}' >proxy.json
export ROCKETMQ_HOME="$home"
java_to "$home/namesrv.jsa" org.apache.rocketmq.namesrv.NamesrvStartup >namesrv.log 2>&1 &
namesrv=$!
answers 9876 $namesrv
java_to "$home/broker.jsa" org.apache.rocketmq.broker.BrokerStartup -c broker.conf >broker.log 2>&1 &
broker=$!
answers 10911 $broker
sleep 3 # until it has registered, and loaded the last of its parts
java_to "$home/proxy.jsa" org.apache.rocketmq.proxy.ProxyStartup -pm cluster -pc proxy.json >proxy.log 2>&1 &
proxy=$!
answers 8081 $proxy
sleep 2
kill $proxy $broker $namesrv
wait $proxy $broker $namesrv || true
rm -rf "$PWD"
test -s "$home/namesrv.jsa" && test -s "$home/broker.jsa" && test -s "$home/proxy.jsa"
