// Porcupine, a general linearizability checker, on a small history exported by bench_checkers.py.
//
// The model is a queue as a register per message: a send makes it present, a receive takes it away, and the final read
// ("drain") must not find it present. Messages are independent, so Porcupine checks them one by one; without that
// partition the search is exponential in what is in flight, and only tens of operations can be judged.
//
// stdin: one JSON operation a line. stdout: {"messages": n, "illegal": k, "unknown": u, "seconds": s}.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
)

// row is one operation; Return is -1 where no completion came, and the operation may then happen at any later time.
type row struct {
	Client int    `json:"client"`
	Op     string `json:"op"`
	Msg    int64  `json:"msg"`
	Call   int64  `json:"call"`
	Return int64  `json:"return"`
}

var register = porcupine.Model{
	Init: func() interface{} { return 0 }, // how often the message lies in the queue
	Step: func(state, input, _ interface{}) (bool, interface{}) {
		n := state.(int)
		switch input.(row).Op {
		case "send":
			return true, n + 1
		case "receive":
			return n > 0, n - 1
		default: // drain
			return n == 0, n
		}
	},
}

func main() {
	byMessage := map[int64][]porcupine.Operation{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var r row
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			fmt.Fprintf(os.Stderr, "porcupine: not an operation: %q: %v\n", lines.Text(), err)
			os.Exit(2)
		}
		if r.Return < 0 {
			r.Return = int64(1) << 62
		}
		byMessage[r.Msg] = append(byMessage[r.Msg], porcupine.Operation{
			ClientId: r.Client, Input: r, Call: r.Call, Output: nil, Return: r.Return,
		})
	}
	began := time.Now()
	illegal, unknown := 0, 0
	for _, operations := range byMessage {
		switch porcupine.CheckOperationsTimeout(register, operations, 10*time.Second) {
		case porcupine.Illegal:
			illegal++
		case porcupine.Unknown:
			unknown++
		}
	}
	fmt.Printf("{\"messages\": %d, \"illegal\": %d, \"unknown\": %d, \"seconds\": %.6f}\n",
		len(byMessage), illegal, unknown, time.Since(began).Seconds())
}
