#!/bin/sh
# fetch-jars.sh POM DIRECTORY [maven options]: every jar that the pom needs at run time, tried three times: an index may stumble.
set -e
pom=$1; directory=$2; shift 2
for attempt in 1 2 3; do
    if mvn -q -B -f "$pom" "$@" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$directory"; then
        rm -rf /root/.m2
        exit 0
    fi
    echo "maven: attempt $attempt failed"
done
exit 1
