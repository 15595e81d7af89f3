// Ask a server what is on photos, over gRPC:
//
//	go run . localhost:8500 photo.jpg…
//
// A token goes in HANSANG_TOKEN. What the server refuses ends with its sentence and exit code 1.
// docs/guides/other-languages.md says how the package pb is made from proto/.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "example.org/hansang/pb"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatalf("usage: %s ADDRESS PHOTO…", os.Args[0])
	}
	address, photos := os.Args[1], os.Args[2:]
	request := &pb.ClassifyRequest{TopK: 3}
	for _, photo := range photos {
		data, err := os.ReadFile(photo)
		if err != nil {
			log.Fatal(err)
		}
		request.Images = append(request.Images, data)
	}

	connection, err := grpc.Dial(address, grpc.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()

	// A call without a deadline would wait for ever.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if token := os.Getenv("HANSANG_TOKEN"); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	answer, err := pb.NewClassifierClient(connection).Classify(ctx, request)
	if err != nil {
		refusal := status.Convert(err)
		log.Fatalf("%s: %s", refusal.Code(), refusal.Message())
	}
	for at, result := range answer.Results {
		if result.Error != nil {
			fmt.Printf("%s: %s\n", photos[at], result.Error.Message)
			continue
		}
		fmt.Printf("%s:", photos[at])
		for _, class := range result.Classes {
			fmt.Printf(" %s %.1f%%", class.Label, 100*class.Probability)
		}
		fmt.Println()
	}
	fmt.Printf("model %s, version %d\n", answer.Model, answer.ModelVersion)
}
